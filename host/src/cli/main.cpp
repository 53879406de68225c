#include <dlfcn.h>

#include <cstdlib>
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
  if (wants_cuda(argc, argv)) {
    // Batches differ in width: memory that grows in place does not fall into pieces.
    setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True", /*overwrite=*/0);
    // Before anything asks LibTorch about CUDA: it remembers the answer "no" for good.
    dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  }
  return outrider::cli::run(argc, argv);
}
