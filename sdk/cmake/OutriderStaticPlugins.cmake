# outrider_link_static_plugins(target name…)
#
# Links plugins of this project, made by outrider_add_plugin() in whatever folder, into a program, and
# writes the program's outrider::static_plugins(), which PluginPolicy::built_in takes. Without names
# it returns nothing.
function(outrider_link_static_plugins target)
  set(declarations "")
  set(calls "")
  foreach(name ${ARGN})
    string(APPEND declarations "outrider::StaticPlugin outrider_static_plugin_${name}();\n")
    list(APPEND calls "outrider_static_plugin_${name}()")
    # The colons make a name that is no plugin's an error of CMake's instead of the linker's.
    target_link_libraries(${target} PRIVATE outrider::static_plugin_${name}
                                            outrider_plugin_${name}_objects)
  endforeach()
  list(JOIN calls ", " calls)
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${target}_static_plugins.cpp)
  configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/static_plugins.cpp.in ${source} @ONLY)
  target_sources(${target} PRIVATE ${source})
  set_source_files_properties(${source} PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endfunction()
