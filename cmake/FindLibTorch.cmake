# Finds a LibTorch without find_package(Torch), which demands the CUDA toolkit.
#
# Input:   LIBTORCH_ROOT, the folder that holds include/ and lib/; by default that of the interpreter's torch package.
# Output:  LibTorch_VERSION, LibTorch_LIBRARY_DIR, targets LibTorch::cpu, LibTorch::c10 and, where the
#          build has them, LibTorch::python, LibTorch::cuda and LibTorch::c10_cuda; LibTorch_NCCL_INCLUDE.

if(NOT LIBTORCH_ROOT)
  find_package(Python3 QUIET COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c
      "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE LIBTORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()

find_path(LibTorch_INCLUDE torch/headeronly/version.h
  PATHS ${LIBTORCH_ROOT}/include NO_DEFAULT_PATH)
foreach(library torch_cpu c10 torch_cuda c10_cuda torch_python)
  find_library(LibTorch_${library} ${library} PATHS ${LIBTORCH_ROOT}/lib NO_DEFAULT_PATH)
endforeach()
# The wheel of LibTorch brings NCCL's in a package beside its own.
find_path(LibTorch_NCCL_INCLUDE nccl.h PATHS ${LIBTORCH_ROOT}/../nvidia/nccl/include)
set(LibTorch_LIBRARY_DIR ${LIBTORCH_ROOT}/lib)

if(LibTorch_INCLUDE)
  file(STRINGS ${LibTorch_INCLUDE}/torch/headeronly/version.h LibTorch_VERSION
    REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
  string(REGEX REPLACE "[^0-9;]" "" LibTorch_VERSION "${LibTorch_VERSION}")
  string(REPLACE ";" "." LibTorch_VERSION "${LibTorch_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_torch_cpu LibTorch_c10 LibTorch_INCLUDE
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "Run scripts/setup.sh, or set LIBTORCH_ROOT to a LibTorch 2.11.0 (looked in '${LIBTORCH_ROOT}')")

function(_libtorch_import name file)
  add_library(LibTorch::${name} SHARED IMPORTED GLOBAL)
  set_target_properties(LibTorch::${name} PROPERTIES
    IMPORTED_LOCATION ${file}
    INTERFACE_LINK_LIBRARIES "${ARGN}"
    INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY
    INTERFACE_INCLUDE_DIRECTORIES
      "${LibTorch_INCLUDE};${LibTorch_INCLUDE}/torch/csrc/api/include")
endfunction()

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  _libtorch_import(c10 ${LibTorch_c10})
  _libtorch_import(cpu ${LibTorch_torch_cpu} LibTorch::c10)
  if(LibTorch_torch_python)
    _libtorch_import(python ${LibTorch_torch_python} LibTorch::cpu)
  endif()
  if(LibTorch_c10_cuda)
    _libtorch_import(c10_cuda ${LibTorch_c10_cuda} LibTorch::c10)
    _libtorch_import(cuda ${LibTorch_torch_cuda} LibTorch::c10_cuda LibTorch::cpu)
  endif()
endif()
