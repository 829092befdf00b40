# ferry_room(NAME dir-relative sources...): one folder = one static target that
# exposes its own folder only; what it may include is what it links.
function(ferry_room name)
	cmake_parse_arguments(arg "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
	add_library(${name} STATIC ${arg_SOURCES})
	target_include_directories(${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
	target_link_libraries(${name} PUBLIC ${arg_PUBLIC} PRIVATE ferry_flags ${arg_PRIVATE})
endfunction()

add_library(ferry_flags INTERFACE)
target_compile_options(ferry_flags INTERFACE -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes
	-Wmissing-prototypes -Wformat=2 -Wno-sign-conversion)
target_compile_definitions(ferry_flags INTERFACE _GNU_SOURCE)
if(FERRY_WERROR)
	target_compile_options(ferry_flags INTERFACE -Werror)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Debug")
	target_compile_definitions(ferry_flags INTERFACE FERRYI_LOCK_DEBUG)
endif()
if(FERRY_SANITIZE)
	add_compile_options(-fsanitize=${FERRY_SANITIZE} -fno-omit-frame-pointer)
	add_link_options(-fsanitize=${FERRY_SANITIZE})
endif()

if(FERRY_FUZZ)
	if(NOT CMAKE_C_COMPILER_ID STREQUAL "Clang")
		message(FATAL_ERROR "FERRY_FUZZ needs clang: add -DCMAKE_C_COMPILER=clang")
	endif()
	# Coverage and asserts in all our code; tests/fuzz links libFuzzer itself.
	add_compile_options(-UNDEBUG -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
		-fno-omit-frame-pointer)
	add_link_options(-fsanitize=address,undefined)
endif()

# ferry_test(NAME LABEL label SOURCES ... LINK ...): a cmocka program, exit 77 = skipped.
function(ferry_test name)
	cmake_parse_arguments(arg "" "TIMEOUT" "LABELS;SOURCES;LINK;ARGS" ${ARGN})
	if(NOT TARGET ${name})
		add_executable(${name} ${arg_SOURCES})
		target_link_libraries(${name} PRIVATE ferry_flags ${arg_LINK} PkgConfig::CMOCKA Threads::Threads)
	endif()
	add_test(NAME ${name} COMMAND ${name} ${arg_ARGS})
	if(NOT arg_TIMEOUT)
		set(arg_TIMEOUT 120)
	endif()
	set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" SKIP_RETURN_CODE 77 TIMEOUT ${arg_TIMEOUT})
endfunction()
