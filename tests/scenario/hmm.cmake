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
# Seconds, then seeds. With the VM's (tests/softroce) ten minutes in all. From the beginning on one of them runs beside
# the other tests, of which many wait, and gives way to them.
function(ferry_hmm_stress name row)
	add_test(NAME scenario_hmm_stress_${name} COMMAND nice -n 10 $<TARGET_FILE:scenario_hmm_stress> ${row} ${ARGN})
	set_tests_properties(scenario_hmm_stress_${name} PROPERTIES LABELS "scenario;needs-uffd"
		SKIP_RETURN_CODE 77 TIMEOUT 900 COST 1000 RESOURCE_LOCK hmm_stress)
endfunction()
if(FERRY_SANITIZE)
	ferry_hmm_stress(local local 70 11 12 13)
	ferry_hmm_stress(tcp tcp 70 14 15 16)
else()
	ferry_hmm_stress(local local 80 1 2 3 4)
	ferry_hmm_stress(tcp tcp 80 5 6 7)
	ferry_hmm_stress(embedded embedded 40 8 9)
	ferry_hmm_stress(nobody local 60 10 11 12)
	set_tests_properties(scenario_hmm_stress_nobody PROPERTIES ENVIRONMENT FERRYT_AS_NOBODY=1)
endif()
ferry_hmm_stress(coherent coherent 30 1 2 3)
ferry_hmm_stress(inline local 30 1 2)
set_tests_properties(scenario_hmm_stress_inline PROPERTIES ENVIRONMENT FERRYT_MODE=inline)

# The same without privileges: no kernel-mode faults, no ptrace.
if(FERRY_SANITIZE)
	return()
endif()
foreach(part mirror migrate range exclusive protect view)
	add_test(NAME scenario_mirror_${part}_nobody COMMAND scenario_mirror_${part} local)
	set_tests_properties(scenario_mirror_${part}_nobody PROPERTIES LABELS "scenario;needs-uffd"
		SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT FERRYT_AS_NOBODY=1)
endforeach()
