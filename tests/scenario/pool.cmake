# Device memory by the public API: a pool's life and end, its callbacks, its descriptors.
foreach(part life)
	add_executable(scenario_pool_${part} pool_${part}.c pager_kit.c control_child.c)
	target_link_libraries(scenario_pool_${part} PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi
		PkgConfig::CMOCKA Threads::Threads)
	target_compile_definitions(scenario_pool_${part} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_pool_${part} ferryd)
	foreach(row local tcp)
		add_test(NAME scenario_pool_${part}_${row} COMMAND scenario_pool_${part} ${row})
		set_tests_properties(scenario_pool_${part}_${row} PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900)
	endforeach()
endforeach()
