#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include "device.h"
#include "kernels/scale.h"

namespace outrider::testing {

TEST_CASE("values on the device are scaled in place by a number that is there") {
  at::manual_seed(13);
  for (const auto type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    const auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
    for (const int64_t size : {0, 1, 7, 8, 4096, 4097, 3000001}) {
      for (const int64_t offset : {0, 1, 5}) {
        for (const double factor : {1.0, 0.0, -2.5, 0.3}) {
          CAPTURE(fmt::format("{} {} at {} by {}", c10::toString(type), size, offset, factor));
          const auto storage = at::randn({size + offset + 1}).to(type);
          const auto device = on_device(storage);
          const auto by = at::full({}, factor, wide);
          kernels::scale_in_place(device.narrow(0, offset, size), on_device(by));
          auto expected = storage.clone();
          expected.narrow(0, offset, size).copy_(storage.narrow(0, offset, size).to(wide) * by);
          CHECK(at::equal(device.cpu(), expected));
        }
      }
    }
  }
}

}  // namespace outrider::testing
