#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "gather_concat.h"

int main(int argc, char** argv) {
  hydra::register_gather_concat();
  return doctest::Context(argc, argv).run();
}
