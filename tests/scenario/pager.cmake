# The public API, through libferry.so and a real ferryd: memory, errors, the kernel's own accesses, fork.
set(pager_kit pager_kit.c control_child.c)
foreach(part memory stream strip ranges errors private kernel fork fork_copy fork_ends fork_heir crash memcg inline replica)
	ferry_test(scenario_pager_${part}_local LABELS scenario needs-uffd TIMEOUT 900
		SOURCES pager_${part}.c ${pager_kit}
		LINK ferry ferry_control ferry_proto ferry_pager_uapi
		ARGS local)
	target_compile_definitions(scenario_pager_${part}_local PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_pager_${part}_local ferryd)
endforeach()
add_test(NAME scenario_pager_replica_tcp COMMAND scenario_pager_replica_local tcp)
set_tests_properties(scenario_pager_replica_tcp PROPERTIES LABELS "scenario;needs-uffd" SKIP_RETURN_CODE 77 TIMEOUT 900)
add_test(NAME scenario_pager_replica_inline COMMAND scenario_pager_replica_local tcp "*server_stopped*")
set_tests_properties(scenario_pager_replica_inline PROPERTIES LABELS "scenario;needs-uffd" SKIP_RETURN_CODE 77 TIMEOUT 900
	ENVIRONMENT FERRYT_MODE=inline)
foreach(part memory stream strip ranges fork inline)
	foreach(row tcp embedded)
		add_test(NAME scenario_pager_${part}_${row} COMMAND scenario_pager_${part}_local ${row})
		set_tests_properties(scenario_pager_${part}_${row} PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900)
	endforeach()
endforeach()
# What passes through the fabric, over tcp too.
add_test(NAME scenario_pager_fork_copy_tcp COMMAND scenario_pager_fork_copy_local tcp "*parent_*")
add_test(NAME scenario_pager_fork_ends_tcp COMMAND scenario_pager_fork_ends_local tcp "*parent_*")
add_test(NAME scenario_pager_fork_heir_tcp COMMAND scenario_pager_fork_heir_local tcp)
add_test(NAME scenario_pager_fork_heir_embedded COMMAND scenario_pager_fork_heir_local embedded "*embedded*")
set_tests_properties(scenario_pager_fork_copy_tcp scenario_pager_fork_ends_tcp scenario_pager_fork_heir_tcp
	scenario_pager_fork_heir_embedded PROPERTIES LABELS "scenario;needs-uffd"
	SKIP_RETURN_CODE 77 TIMEOUT 900)
# Unprivileged: its own memory is all it takes.
if(NOT FERRY_SANITIZE)
	add_test(NAME scenario_pager_private_nobody COMMAND scenario_pager_private_local local)
	add_test(NAME scenario_pager_fork_heir_nobody COMMAND scenario_pager_fork_heir_local local "*parent_killed*")
	add_test(NAME scenario_pager_inline_nobody COMMAND scenario_pager_inline_local local)
	set_tests_properties(scenario_pager_private_nobody scenario_pager_fork_heir_nobody scenario_pager_inline_nobody PROPERTIES LABELS "scenario;needs-uffd"
		SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT FERRYT_AS_NOBODY=1)
endif()
pkg_check_modules(LIBURING IMPORTED_TARGET liburing)
if(LIBURING_FOUND)
	target_link_libraries(scenario_pager_kernel_local PRIVATE PkgConfig::LIBURING)
	target_compile_definitions(scenario_pager_kernel_local PRIVATE FERRYT_HAVE_URING)
endif()
