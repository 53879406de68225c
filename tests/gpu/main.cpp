#define DOCTEST_CONFIG_IMPLEMENT
#include <dlfcn.h>
#include <doctest/doctest.h>

#include <cstdio>

int main(int argc, char** argv) {
  // First of all: LibTorch remembers for good that there is no CUDA if it is asked before this.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    std::fprintf(stderr, "libtorch_cuda.so cannot be opened: %s\n", dlerror());
  }
  return doctest::Context(argc, argv).run();
}
