# The installed tree, the examples built against it, and the `ferry` command.
function(ferry_script_test name)
	cmake_parse_arguments(arg "" "TIMEOUT" "LABELS;ARGS" ${ARGN})
	add_test(NAME ${name} COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/${name}.sh ${arg_ARGS})
	set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" SKIP_RETURN_CODE 77 TIMEOUT ${arg_TIMEOUT}
		ENVIRONMENT "CC=${CMAKE_C_COMPILER};FERRY_SANITIZE=${FERRY_SANITIZE}")
endfunction()

# The scratch prefix is what the later scripts use.
ferry_script_test(install_tree LABELS scenario TIMEOUT 300
	ARGS ${CMAKE_BINARY_DIR} ${CMAKE_CURRENT_BINARY_DIR}/prefix ${CMAKE_INSTALL_LIBDIR})
set_tests_properties(install_tree PROPERTIES FIXTURES_SETUP ferry_installed)
ferry_script_test(install_examples LABELS scenario needs-uffd TIMEOUT 600
	ARGS ${CMAKE_SOURCE_DIR}/client/examples ${CMAKE_CURRENT_BINARY_DIR}/prefix ${CMAKE_INSTALL_LIBDIR}
		${CMAKE_CURRENT_BINARY_DIR}/examples)
ferry_script_test(tool_command LABELS scenario needs-uffd TIMEOUT 300
	ARGS ${CMAKE_CURRENT_BINARY_DIR}/prefix ${CMAKE_CURRENT_BINARY_DIR}/tool_command)
set_tests_properties(install_examples tool_command PROPERTIES FIXTURES_REQUIRED ferry_installed)
