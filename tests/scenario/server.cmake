# ferryd as a real process, seen through the bare protocol.
foreach(part control data options memory views resize failure heir)
	ferry_test(scenario_server_${part} LABELS scenario TIMEOUT 600 SOURCES server_${part}.c server_kit.c
		LINK ferry_proto ferry_fabric)
	target_compile_definitions(scenario_server_${part} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>"
		FERRYT_MAN_PAGE="${PROJECT_SOURCE_DIR}/client/man/ferryd.8")
	add_dependencies(scenario_server_${part} ferryd)
endforeach()
