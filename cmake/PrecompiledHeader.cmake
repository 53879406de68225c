# One precompiled header for every target that includes torch/nn: building it costs half a minute once,
# and every file that uses it then compiles in about 5 s instead of 13.

file(WRITE ${CMAKE_BINARY_DIR}/pch/owner.cpp "")
add_library(outrider_pch OBJECT ${CMAKE_BINARY_DIR}/pch/owner.cpp)
target_link_libraries(outrider_pch PRIVATE LibTorch::cpu nlohmann_json::nlohmann_json)
target_precompile_headers(outrider_pch PRIVATE
  <ATen/ATen.h> <torch/nn/module.h> <torch/csrc/autograd/custom_function.h> <torch/library.h>
  <nlohmann/json.hpp> <fmt/format.h>)

# outrider_use_pch(TARGET…): the flags of these targets must equal those of the header's owner.
function(outrider_use_pch)
  foreach(target ${ARGN})
    set_target_properties(${target} PROPERTIES DEFINE_SYMBOL "")
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Winvalid-pch>
                                             $<$<COMPILE_LANGUAGE:CXX>:-fPIC>)
    if(NOT CMAKE_DISABLE_PRECOMPILE_HEADERS)
      target_precompile_headers(${target} REUSE_FROM outrider_pch)
    endif()
  endforeach()
endfunction()
