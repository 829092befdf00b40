# The client's control plane against a server that the test plays itself.
ferry_test(scenario_control_hostile LABELS scenario SOURCES control_hostile.c control_peer.c
	LINK ferry_control ferry_proto)
