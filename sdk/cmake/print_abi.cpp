// Run when Outrider is configured: the flags that its SDK's package asks of other projects.
#include <cstdio>

#include "outrider/sdk/build_stamp.h"

int main() { std::printf("%u", outrider::detail::build_flags()); }
