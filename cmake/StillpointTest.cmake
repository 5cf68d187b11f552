# stillpoint_test(NAME SOURCES file… LIBRARIES target… [LABELS label…])
# One doctest executable and one ctest of the same name. Tests that need VMs carry the label "vm".
add_library(stillpoint-doctest-main STATIC ${CMAKE_SOURCE_DIR}/tests/doctest_main.cpp)
target_link_libraries(stillpoint-doctest-main PUBLIC doctest::doctest stillpoint-options)

function(stillpoint_test name)
  cmake_parse_arguments(arg "OWN_PROCESSES" "" "SOURCES;LIBRARIES;LABELS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE stillpoint-doctest-main ${arg_LIBRARIES})
  target_compile_definitions(${name} PRIVATE STILLPOINT_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    STILLPOINT_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(arg_OWN_PROCESSES)
    # A namespace whose first process is a shell, which reaps what the test leaves. It ends with the test or with
    # unshare, and everything in it ends then: the daemonized machines of a test that was killed, too.
    add_test(NAME ${name} COMMAND unshare --pid --fork --kill-child --mount-proc
      sh -c "\"$0\" \"$@\"; exit $?" $<TARGET_FILE:${name}>)
  else()
    add_test(NAME ${name} COMMAND ${name})
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
  if(arg_LABELS)
    set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}")
    if("vm" IN_LIST arg_LABELS)
      set_tests_properties(${name} PROPERTIES COST 100)
    endif()
  endif()
endfunction()
