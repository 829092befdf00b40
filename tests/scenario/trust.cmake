# Who gets in, by each method, and what one user can take of the others. Each part starts what it needs for itself.
find_program(MUNGED munged PATHS /usr/sbin /usr/local/sbin)
if(MUNGE_FOUND AND MUNGED)
	ferry_test(scenario_trust_munge LABELS scenario
		SOURCES trust_munge.c munge_kit.c server_kit.c control_client.c
		LINK ferry_control ferry_proto ferry_fabric)
	target_compile_definitions(scenario_trust_munge PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>"
		FERRYT_MUNGED="${MUNGED}")
	add_dependencies(scenario_trust_munge ferryd)
endif()
if(LIBEVENT_OPENSSL_FOUND)
	ferry_test(scenario_trust_tls LABELS scenario
		SOURCES trust_tls.c tls_kit.c server_kit.c control_client.c
		LINK ferry_control ferry_proto ferry_fabric)
	target_compile_definitions(scenario_trust_tls PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_trust_tls ferryd)
endif()
if(LIBEVENT_OPENSSL_FOUND)
	ferry_test(scenario_trust_hostile LABELS scenario needs-uffd
		SOURCES trust_hostile.c tls_kit.c server_kit.c
		LINK ferry ferry_proto ferry_fabric)
	target_compile_definitions(scenario_trust_hostile PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(scenario_trust_hostile ferryd)
endif()
ferry_test(scenario_trust_quota LABELS scenario SOURCES trust_quota.c server_kit.c LINK ferry_proto ferry_fabric)
target_compile_definitions(scenario_trust_quota PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
add_dependencies(scenario_trust_quota ferryd)
