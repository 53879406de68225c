#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

namespace outrider::medusa {
void register_residual_block();
}

int main(int argc, char** argv) {
  outrider::medusa::register_residual_block();
  return doctest::Context(argc, argv).run();
}
