# What `cmake --install` writes: the program, its plugins, and everything that building other plugins
# or embedding the host needs. Nothing of it refers to the source tree.
#
#   bin/                         outrider, and the interpreter of the text tools
#   lib/                         the two libraries
#   lib/outrider/                plugins with their lock file, text tools, template of `plugin new`
#   include/outrider-sdk/        headers for plugins: core's, the SDK's, the plugins' configs
#   include/outrider-host/       headers for programs that embed the host
#   lib/cmake/OutriderSDK/       find_package(OutriderSDK)
#   share/doc/outrider/          the documentation

# In a wheel (OUTRIDER_WHEEL) all of this lies in outrider/native/ beside the Python package, and
# LibTorch is that of the environment, found by its place.

set(package lib/cmake/OutriderSDK)
set(libtorch_at_run_time ${LibTorch_LIBRARY_DIR})
if(OUTRIDER_WHEEL)
  set(libtorch_at_run_time "$ORIGIN/../../../torch/lib;$ORIGIN/../../../nvidia/cu13/lib")
  set_target_properties(outrider_python PROPERTIES
    INSTALL_RPATH "$ORIGIN/native/lib;$ORIGIN/../torch/lib;$ORIGIN/../nvidia/cu13/lib")
  install(TARGETS outrider_python LIBRARY DESTINATION ${SKBUILD_PLATLIB_DIR}/outrider)
else()
  install(DIRECTORY python/outrider DESTINATION lib/outrider/python FILES_MATCHING PATTERN "*.py")
  install(PROGRAMS ${CMAKE_BINARY_DIR}/bin/python DESTINATION bin)
endif()

foreach(target outrider_core outrider_host outrider)
  string(REPLACE outrider_ "" name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${name})
endforeach()
set_target_properties(outrider_sdk PROPERTIES EXPORT_NAME sdk)
set_target_properties(outrider PROPERTIES EXPORT_NAME program INSTALL_RPATH "$ORIGIN/../lib;${libtorch_at_run_time}")
set_target_properties(outrider_core outrider_host PROPERTIES
  INSTALL_RPATH "$ORIGIN;${libtorch_at_run_time}")

install(TARGETS outrider_core outrider_host outrider_sdk outrider EXPORT OutriderSDKTargets
  RUNTIME DESTINATION bin LIBRARY DESTINATION lib)
foreach(library outrider_nccl outrider_cuda_graph)
  if(TARGET ${library})
    set_target_properties(${library} PROPERTIES INSTALL_RPATH "${libtorch_at_run_time}")
    install(TARGETS ${library} LIBRARY DESTINATION lib)
  endif()
endforeach()
install(EXPORT OutriderSDKTargets NAMESPACE outrider:: DESTINATION ${package})

install(DIRECTORY core/include/ sdk/include/ DESTINATION include/outrider-sdk)
install(DIRECTORY host/include/ DESTINATION include/outrider-host)
foreach(plugin eagle medusa)
  install(DIRECTORY plugins/${plugin}/include/ DESTINATION include/outrider-sdk)
endforeach()

# As they were built: the lock file holds their hashes.
install(DIRECTORY ${CMAKE_BINARY_DIR}/lib/outrider/plugins/ DESTINATION lib/outrider/plugins
  FILES_MATCHING PATTERN "*.outrider.so" PATTERN plugins.lock.json)
install(DIRECTORY sdk/template/ DESTINATION lib/outrider/template)
install(DIRECTORY docs/ DESTINATION share/doc/outrider)
install(DIRECTORY examples/plugins/hydra DESTINATION share/doc/outrider/examples)
# Its links to other pages lead into their own folder there.
file(READ README.md readme)
string(REPLACE "](docs/" "](" readme "${readme}")
file(WRITE ${CMAKE_BINARY_DIR}/installed/README.md "${readme}")
install(FILES ${CMAKE_BINARY_DIR}/installed/README.md DESTINATION share/doc/outrider)

# The versions below are part of the plugin ABI: the package refuses others in words.
file(STRINGS sdk/include/outrider/sdk/stamp.h OUTRIDER_SDK_ABI REGEX "kSdkAbi = ")
string(REGEX REPLACE "[^0-9]" "" OUTRIDER_SDK_ABI "${OUTRIDER_SDK_ABI}")
set(CMAKE_TRY_COMPILE_CONFIGURATION ${CMAKE_BUILD_TYPE})
try_run(printed compiled SOURCES ${PROJECT_SOURCE_DIR}/sdk/cmake/print_abi.cpp
  CMAKE_FLAGS -DINCLUDE_DIRECTORIES=${PROJECT_SOURCE_DIR}/sdk/include
  LINK_LIBRARIES LibTorch::c10 nlohmann_json::nlohmann_json
  COMPILE_OUTPUT_VARIABLE output RUN_OUTPUT_VARIABLE OUTRIDER_SDK_FLAGS NO_CACHE)
if(NOT compiled)
  message(FATAL_ERROR "sdk/cmake/print_abi.cpp does not compile:\n${output}")
endif()
include(CMakePackageConfigHelpers)
configure_package_config_file(sdk/cmake/OutriderSDKConfig.cmake.in
  ${CMAKE_BINARY_DIR}/OutriderSDKConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/OutriderSDKConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_BINARY_DIR}/OutriderSDKConfig.cmake ${CMAKE_BINARY_DIR}/OutriderSDKConfigVersion.cmake
  cmake/FindLibTorch.cmake cmake/Cuda.cmake
  sdk/cmake/OutriderPlugin.cmake sdk/cmake/check_abi.cpp sdk/cmake/plugin.map
  sdk/cmake/plugin_stamp.cpp.in sdk/cmake/OutriderStaticPlugins.cmake
  sdk/cmake/static_plugins.cpp.in
  DESTINATION ${package})
