# The client's control plane: against a server that the test plays itself, a real ferryd, and an embedded one.
ferry_test(scenario_control_hostile LABELS scenario
	SOURCES control_hostile.c control_peer.c control_client.c
	LINK ferry_control ferry_proto)
ferry_test(scenario_control_lease LABELS scenario
	SOURCES control_lease.c control_peer.c control_client.c
	LINK ferry_control ferry_proto)
ferry_test(scenario_control_ferryd LABELS scenario
	SOURCES control_ferryd.c control_child.c control_client.c
	LINK ferry_control ferry_proto)
ferry_test(scenario_control_embedded LABELS scenario
	SOURCES control_embedded.c control_client.c
	LINK ferry_control ferry_proto)
foreach(test scenario_control_ferryd scenario_control_embedded)
	target_compile_definitions(${test} PRIVATE FERRYT_FERRYD="$<TARGET_FILE:ferryd>")
	add_dependencies(${test} ferryd)
endforeach()
