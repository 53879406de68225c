# outrider_add_plugin(NAME name VERSION 1.2.3 SOURCES file.cpp…
#                     [MODES mode…] [BASES architecture…] [DRAFT_MODELS mode/architecture…]
#                     [CUDA file.cu… [STUB no_file.cpp…]] [INCLUDE dir] [OUTPUT_DIRECTORY dir])
#
# Builds NAME.outrider.so (target outrider_plugin_NAME) and, for tests that link the plugin's code
# directly, an object library of the same sources (outrider_plugin_NAME_objects).
#   MODES, BASES, DRAFT_MODELS  what the plugin's entry function registers, exactly; at least one
#   CUDA              kernels; declare what launches them with OUTRIDER_LAUNCHER
#   STUB              what is compiled instead in builds without CUDA, where something has to be
#   INCLUDE           folder of the plugin's public headers
#   OUTPUT_DIRECTORY  default: lib/outrider/plugins of the build tree, whose lock file the build writes

# Must match what the host's stamp reader accepts.
function(_outrider_check_plugin_arguments)
  if(ARG_UNPARSED_ARGUMENTS)
    list(JOIN ARG_UNPARSED_ARGUMENTS " " unknown)
    message(FATAL_ERROR "outrider_add_plugin: unknown arguments: ${unknown}")
  endif()
  foreach(required NAME VERSION SOURCES)
    if(NOT ARG_${required})
      message(FATAL_ERROR "outrider_add_plugin: ${required} is missing")
    endif()
  endforeach()
  if(NOT ARG_MODES AND NOT ARG_BASES AND NOT ARG_DRAFT_MODELS)
    message(FATAL_ERROR "outrider_add_plugin: plugin ${ARG_NAME} provides nothing: give MODES, BASES "
                        "or DRAFT_MODELS")
  endif()
  foreach(name ${ARG_NAME} ${ARG_MODES})
    string(LENGTH ${name} length)
    if(NOT name MATCHES "^[a-z][a-z0-9_]*$" OR length GREATER 63)
      message(FATAL_ERROR "outrider_add_plugin: '${name}' is no valid name for a plugin or mode: "
                          "accepted are lower-case letters, digits and '_', a letter first, at most 63")
    endif()
  endforeach()
  string(LENGTH ${ARG_VERSION} length)
  set(number "(0|[1-9][0-9]*)")
  if(NOT ARG_VERSION MATCHES "^${number}\\.${number}\\.${number}(-[0-9A-Za-z.-]+)?$" OR length GREATER 31)
    message(FATAL_ERROR "outrider_add_plugin: VERSION ${ARG_VERSION} of plugin ${ARG_NAME} is no "
                        "semantic version such as 1.2.3 or 1.2.3-rc.1")
  endif()
  foreach(architecture ${ARG_BASES} ${ARG_DRAFT_MODELS})
    if(NOT architecture MATCHES "^([a-z][a-z0-9_]*/)?[A-Za-z][A-Za-z0-9_]*$")
      message(FATAL_ERROR "outrider_add_plugin: '${architecture}' is neither an architecture nor "
                          "MODE/ARCHITECTURE")
    endif()
  endforeach()
  set(provided ${ARG_MODES} ${ARG_BASES} ${ARG_DRAFT_MODELS})
  list(LENGTH provided given)
  list(REMOVE_DUPLICATES provided)
  list(LENGTH provided distinct)
  if(NOT given EQUAL distinct)
    message(FATAL_ERROR "outrider_add_plugin: plugin ${ARG_NAME} names something twice")
  endif()
  if(ARG_STUB AND NOT ARG_CUDA)
    message(FATAL_ERROR "outrider_add_plugin: plugin ${ARG_NAME} gives STUB without CUDA: the stub "
                        "replaces the kernels in builds without CUDA")
  endif()
  if(ARG_CUDA AND NOT COMMAND outrider_target_backend)
    message(FATAL_ERROR "outrider_add_plugin: plugin ${ARG_NAME} has CUDA kernels: ask for them with "
                        "find_package(OutriderSDK REQUIRED COMPONENTS CUDA)")
  endif()
endfunction()

function(_outrider_add_plugin_objects objects)
  add_library(${objects} OBJECT ${ARG_SOURCES})
  set_target_properties(${objects} PROPERTIES
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_link_libraries(${objects} PUBLIC outrider::sdk LibTorch::cpu)
  target_compile_definitions(${objects} PRIVATE
    OUTRIDER_PLUGIN_ENTRY=outrider_plugin_register_v1_${ARG_NAME})
  if(ARG_INCLUDE)
    target_include_directories(${objects} PUBLIC ${ARG_INCLUDE})
  endif()
  if(ARG_CUDA)
    outrider_target_backend(${objects} CUDA ${ARG_CUDA} STUB ${ARG_STUB})
  endif()
  if(COMMAND outrider_use_pch)
    outrider_use_pch(${objects})
  endif()
endfunction()

# Sets `result` in the caller to the path of the plugin's stamp source.
function(_outrider_write_stamp objects result)
  list(JOIN ARG_MODES "," modes)
  list(JOIN ARG_BASES "," bases)
  list(JOIN ARG_DRAFT_MODELS "," draft_models)
  set(cuda_version 0)
  set(cuda_archs "")
  if(ARG_CUDA AND OUTRIDER_WITH_CUDA)
    math(EXPR cuda_version "${CUDAToolkit_VERSION_MAJOR} * 1000 + ${CUDAToolkit_VERSION_MINOR} * 10")
    get_target_property(cuda_archs ${objects} CUDA_ARCHITECTURES)
  endif()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/${ARG_NAME}_stamp.cpp)
  configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/plugin_stamp.cpp.in ${source} @ONLY)
  set(${result} ${source} PARENT_SCOPE)
endfunction()

function(_outrider_set_plugin_link_options target)
  set(map ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/plugin.map)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${map} LINKER_LANGUAGE CXX
    SKIP_BUILD_RPATH ON INSTALL_RPATH "" INSTALL_RPATH_USE_LINK_PATH OFF)
  target_link_options(${target} PRIVATE
    LINKER:--version-script=${map} LINKER:--require-defined=outrider_plugin_register_v1
    LINKER:-z,nodelete LINKER:-z,now LINKER:-z,relro LINKER:-z,noexecstack LINKER:-z,defs)
endfunction()

# The stamp and the entry function for programs that outrider_link_static_plugins() links the plugin into.
function(_outrider_add_static_variant target stamp_source)
  add_library(${target}_static OBJECT EXCLUDE_FROM_ALL ${stamp_source})
  add_library(outrider::static_plugin_${ARG_NAME} ALIAS ${target}_static)
  set_target_properties(${target}_static PROPERTIES
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden)
  target_compile_definitions(${target}_static PRIVATE OUTRIDER_STATIC_PLUGIN)
  target_link_libraries(${target}_static PRIVATE outrider::sdk LibTorch::cpu)
endfunction()

function(_outrider_write_plugin_lock directory)
  if(TARGET outrider)
    get_property(plugins GLOBAL PROPERTY OUTRIDER_LOCKED_PLUGINS)
    add_custom_command(OUTPUT ${directory}/plugins.lock.json
      COMMAND $<TARGET_FILE:outrider> plugin lock ${directory}
      DEPENDS outrider ${plugins} VERBATIM)
    add_custom_target(outrider_plugin_lock ALL DEPENDS ${directory}/plugins.lock.json)
  endif()
endfunction()

# The lock needs every plugin, so it is added when the whole project has been read.
function(_outrider_lock_plugin target directory)
  get_property(plugins GLOBAL PROPERTY OUTRIDER_LOCKED_PLUGINS)
  if(NOT plugins)
    cmake_language(EVAL CODE "cmake_language(DEFER DIRECTORY [[${CMAKE_SOURCE_DIR}]]
      CALL _outrider_write_plugin_lock [[${directory}]])")
  endif()
  set_property(GLOBAL APPEND PROPERTY OUTRIDER_LOCKED_PLUGINS ${target})
endfunction()

function(outrider_add_plugin)
  cmake_parse_arguments(PARSE_ARGV 0 ARG "" "NAME;VERSION;INCLUDE;OUTPUT_DIRECTORY"
                        "MODES;BASES;DRAFT_MODELS;SOURCES;CUDA;STUB")
  _outrider_check_plugin_arguments()
  set(target outrider_plugin_${ARG_NAME})
  set(directory ${CMAKE_BINARY_DIR}/lib/outrider/plugins)
  if(ARG_OUTPUT_DIRECTORY)
    set(directory ${ARG_OUTPUT_DIRECTORY})
  else()
    _outrider_lock_plugin(${target} ${directory})
  endif()

  _outrider_add_plugin_objects(${target}_objects)
  _outrider_write_stamp(${target}_objects stamp_source)
  add_library(${target} MODULE ${stamp_source})
  set_target_properties(${target} PROPERTIES
    CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden
    PREFIX "" OUTPUT_NAME ${ARG_NAME} SUFFIX .outrider.so LIBRARY_OUTPUT_DIRECTORY ${directory})
  target_link_libraries(${target} PRIVATE ${target}_objects outrider::sdk LibTorch::cpu)
  _outrider_set_plugin_link_options(${target})
  _outrider_add_static_variant(${target} ${stamp_source})
endfunction()
