#include "outrider/files/opened_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {

void* function_of_library(const char* library, const char* symbol, const std::string& who,
                          const std::string& hint) {
  void* opened = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (void* function = opened ? dlsym(opened, symbol) : nullptr) return function;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{} need {}, which cannot be opened: {}", who, library,
                          printable(dlerror(), 300)),
              hint);
}

}  // namespace outrider
