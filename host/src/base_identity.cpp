#include "base_identity.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>
#include <vector>

#include "outrider/host/plugin_lock.h"

namespace outrider {
namespace {

using Named = std::pair<std::string, const TensorView*>;

std::string line(const Named& tensor) {
  const auto& [name, view] = tensor;
  const std::string_view bytes(reinterpret_cast<const char*>(view->bytes.data()),
                               view->bytes.size());
  return fmt::format("{} {} [{}] {}\n", name, view->dtype, fmt::join(view->shape, ","),
                     sha256_of(bytes));
}

}  // namespace

std::string weights_sha256(const SafetensorsFolder& stored, const TensorMap& base) {
  std::vector<Named> tensors;
  for (const auto& [name, entry] : stored.tensors()) {
    if (base.contains(name)) tensors.emplace_back(name, entry.view);
  }
  std::vector<std::string> lines(tensors.size());
  at::parallel_for(0, static_cast<int64_t>(tensors.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      lines[static_cast<size_t>(i)] = line(tensors[static_cast<size_t>(i)]);
    }
  });
  return sha256_of(fmt::format("{}", fmt::join(lines, "")));
}

}  // namespace outrider
