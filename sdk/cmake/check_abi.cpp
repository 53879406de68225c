// Compiled by find_package(OutriderSDK) with a project's compiler and flags; each failed assertion
// is what the user reads.
#include "outrider/sdk/build_stamp.h"

using namespace outrider;

constexpr bool agrees(uint32_t flag) {
  return ((detail::build_flags() ^ uint32_t{SDK_FLAGS}) & flag) == 0;
}

static_assert(detail::build_stdlib() == "libstdc++", "plugins need libstdc++, not libc++");
static_assert(agrees(kStampCxx11Abi), "_GLIBCXX_USE_CXX11_ABI differs from the SDK's");
static_assert(agrees(kStampGlibcxxDebug), "_GLIBCXX_DEBUG differs from the SDK's");
static_assert(agrees(kStampAddressSanitizer), "AddressSanitizer must be on in both or in neither");
static_assert(agrees(kStampThreadSanitizer), "ThreadSanitizer must be on in both or in neither");
static_assert(agrees(kStampJsonDiagnostics), "JSON_DIAGNOSTICS differs from the SDK's");

int main() {}
