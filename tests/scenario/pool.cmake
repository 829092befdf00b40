# Device memory by the public API: a pool's life and end, its callbacks, its descriptors.
add_executable(scenario_pool_life pool_life.c pager_kit.c control_child.c)
target_link_libraries(scenario_pool_life PRIVATE ferry)

# Types of memory: what is in a file outlives client and server.
add_executable(scenario_pool_types pool_types.c pager_kit.c control_child.c)
target_link_libraries(scenario_pool_types PRIVATE ferry)

# Page descriptors in the pool: found again after a crash.
foreach(part altmap kept)
	add_executable(scenario_pool_${part} pool_${part}.c altmap_kit.c pager_kit.c control_child.c)
	target_link_libraries(scenario_pool_${part} PRIVATE ferry)
endforeach()

# A server's pool grows and shrinks under its clients.
add_executable(scenario_pool_resize pool_resize.c pager_kit.c control_child.c)
target_link_libraries(scenario_pool_resize PRIVATE ferry)

# Huge pages that go to a pool as one.
foreach(part folio folio_small)
	add_executable(scenario_pool_${part} pool_${part}.c pager_kit.c control_child.c)
	target_link_libraries(scenario_pool_${part} PRIVATE ferry)
endforeach()
# Pages that are mapped where they are, in a pool of this host.
foreach(part coherent coherent_end)
	add_executable(scenario_pool_${part} pool_${part}.c coherent_kit.c pager_kit.c control_child.c)
	target_link_libraries(scenario_pool_${part} PRIVATE ferry)
endforeach()

# One process, several servers: which memory goes where.
add_executable(scenario_pool_servers pool_servers.c pager_kit.c control_child.c)
target_link_libraries(scenario_pool_servers PRIVATE ferry)

# ... that are found: by a real etcd, by DNS.
add_executable(scenario_pool_discovery pool_discovery.c pager_kit.c control_child.c)
target_link_libraries(scenario_pool_discovery PRIVATE ferry ferry_discover)

# libferry's own files, not the library: the test reports a memory failure as the control thread does.
get_target_property(life_sources ferry SOURCES)
get_target_property(life_links ferry LINK_LIBRARIES)
get_target_property(life_dir ferry SOURCE_DIR)
list(TRANSFORM life_sources PREPEND ${life_dir}/)
add_executable(scenario_pool_callback pool_callback.c pager_kit.c control_child.c ${life_sources})
target_include_directories(scenario_pool_callback PRIVATE ${PROJECT_SOURCE_DIR}/client/include ${life_dir})
target_compile_definitions(scenario_pool_callback PRIVATE FERRYI_VERSION="${PROJECT_VERSION}")
target_link_libraries(scenario_pool_callback PRIVATE ${life_links})

foreach(part life callback types altmap kept resize servers discovery folio folio_small coherent coherent_end)
	target_link_libraries(scenario_pool_${part} PRIVATE ferry_flags ferry_control ferry_proto ferry_pager_uapi
		PkgConfig::CMOCKA Threads::Threads)
	target_compile_definitions(scenario_pool_${part} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_pool_${part} ferryd)
	set(rows local tcp)
	if(part MATCHES "^coherent")
		set(rows local embedded)
	endif()
	foreach(row ${rows})
		add_test(NAME scenario_pool_${part}_${row} COMMAND scenario_pool_${part} ${row})
		set_tests_properties(scenario_pool_${part}_${row} PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900)
	endforeach()
endforeach()

# The same without privileges: no kernel-mode faults, no ptrace.
if(NOT FERRY_SANITIZE)
	foreach(part folio folio_small coherent coherent_end)
		add_test(NAME scenario_pool_${part}_nobody COMMAND scenario_pool_${part} local)
		set_tests_properties(scenario_pool_${part}_nobody PROPERTIES LABELS "scenario;needs-uffd"
			SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT FERRYT_AS_NOBODY=1)
	endforeach()
endif()
