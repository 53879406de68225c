#include <dlfcn.h>

#include <string_view>

#include "cli/app.h"

namespace {

bool wants_cuda(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]).find("cuda") != std::string_view::npos) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  // Before anything asks LibTorch about CUDA: it remembers the answer "no" for good.
  if (wants_cuda(argc, argv)) dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  return outrider::cli::run(argc, argv);
}
