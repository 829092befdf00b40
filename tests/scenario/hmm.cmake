# The device's side of the public API, by part and fabric row.
foreach(part mirror migrate range exclusive protect view view_end)
	set(kit)
	if(part MATCHES "^view")
		set(kit view_kit.c)
	endif()
	add_executable(scenario_mirror_${part} mirror_${part}.c ${kit} pager_kit.c control_child.c)
	target_link_libraries(scenario_mirror_${part} PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi
		PkgConfig::CMOCKA Threads::Threads)
	target_compile_definitions(scenario_mirror_${part} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_mirror_${part} ferryd)
	foreach(row local tcp)
		add_test(NAME scenario_mirror_${part}_${row} COMMAND scenario_mirror_${part} ${row})
		set_tests_properties(scenario_mirror_${part}_${row} PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900)
	endforeach()
endforeach()

# What a view makes of an exporter that lies. Only where the view reads the pool itself.
add_executable(scenario_mirror_view_liar mirror_view_liar.c pager_kit.c control_child.c control_client.c)
target_link_libraries(scenario_mirror_view_liar PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi PkgConfig::CMOCKA
	PkgConfig::XXHASH Threads::Threads)
target_compile_definitions(scenario_mirror_view_liar PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
add_dependencies(scenario_mirror_view_liar ferryd)
add_test(NAME scenario_mirror_view_liar_tcp COMMAND scenario_mirror_view_liar tcp)
set_tests_properties(scenario_mirror_view_liar_tcp PROPERTIES LABELS "scenario;needs-uffd"
	SKIP_RETURN_CODE 77 TIMEOUT 900)

# Everything at once, against a model. Seeds are arguments, so that a failing run can be repeated.
add_executable(scenario_hmm_stress hmm_stress.c pager_kit.c control_child.c)
target_link_libraries(scenario_hmm_stress PRIVATE ferry_flags ferry ferry_control ferry_proto ferry_pager_uapi
	PkgConfig::CMOCKA Threads::Threads)
target_compile_definitions(scenario_hmm_stress PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
add_dependencies(scenario_hmm_stress ferryd)
foreach(row local tcp)
	add_test(NAME scenario_hmm_stress_${row} COMMAND scenario_hmm_stress ${row} 30 1 2 3)
	set_tests_properties(scenario_hmm_stress_${row} PROPERTIES LABELS "scenario;needs-uffd"
		SKIP_RETURN_CODE 77 TIMEOUT 900)
endforeach()

# The same without privileges: no kernel-mode faults, no ptrace.
if(FERRY_SANITIZE)
	return()
endif()
foreach(part mirror migrate range exclusive protect view)
	add_test(NAME scenario_mirror_${part}_nobody COMMAND scenario_mirror_${part} local)
	set_tests_properties(scenario_mirror_${part}_nobody PROPERTIES LABELS "scenario;needs-uffd"
		SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT FERRYT_AS_NOBODY=1)
endforeach()
add_test(NAME scenario_hmm_stress_nobody COMMAND scenario_hmm_stress local 15 4)
set_tests_properties(scenario_hmm_stress_nobody PROPERTIES LABELS "scenario;needs-uffd"
	SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT FERRYT_AS_NOBODY=1)
