#define DOCTEST_CONFIG_IMPLEMENT
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cstdio>

#include "device.h"

// What CMakeLists.txt has as SKIP_RETURN_CODE.
constexpr int kSkipped = 77;

int main(int argc, char** argv) {
  // First of all: LibTorch remembers for good that there is no CUDA if it is asked before this.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "libtorch_cuda.so cannot be opened: %s\n", dlerror());
  }
  doctest::Context context(argc, argv);
  if (!outrider::testing::has_device()) {
    context.setOption("no-run", true);
    context.run();
    std::puts("gpu_tests: skipped, since there is no CUDA device");
    return kSkipped;
  }
  return context.run();
}
