# Load and failure on the pager. A sanitizer build, many times slower, runs a tenth of the operations.
set(stress_ops 1000000)
if(FERRY_SANITIZE)
	set(stress_ops 100000)
endif()
foreach(part stress failure)
	add_executable(scenario_pager_${part} pager_${part}.c pager_kit.c control_child.c)
	target_link_libraries(scenario_pager_${part} PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi
		PkgConfig::CMOCKA Threads::Threads)
	target_compile_definitions(scenario_pager_${part} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_pager_${part} ferryd)
	foreach(row local tcp)
		add_test(NAME scenario_pager_${part}_${row} COMMAND scenario_pager_${part} ${row} ${stress_ops})
		set_tests_properties(scenario_pager_${part}_${row} PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900)
	endforeach()
endforeach()

# A network of the tests' own, whose cables are cut.
add_executable(scenario_failure_net failure_net.c ../chaos/member.c pager_kit.c control_child.c)
target_include_directories(scenario_failure_net PRIVATE ../chaos)
target_link_libraries(scenario_failure_net PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi
	PkgConfig::CMOCKA Threads::Threads)
target_compile_definitions(scenario_failure_net PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
add_dependencies(scenario_failure_net ferryd)
add_test(NAME scenario_failure_net_tcp COMMAND scenario_failure_net tcp)
add_test(NAME scenario_failure_net_local COMMAND scenario_failure_net local "client__*")
set_tests_properties(scenario_failure_net_tcp scenario_failure_net_local PROPERTIES LABELS "scenario;needs-uffd"
	SKIP_RETURN_CODE 77 TIMEOUT 600)
