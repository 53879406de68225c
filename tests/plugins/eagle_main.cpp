#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

namespace outrider::eagle {
void register_double_norm_concat();
}

int main(int argc, char** argv) {
  outrider::eagle::register_double_norm_concat();
  return doctest::Context(argc, argv).run();
}
