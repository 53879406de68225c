#include "outrider/ops/documents.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <vector>

namespace outrider::ops {

Documents Documents::first(int64_t length) const {
  const int64_t whole = starts.size(1);
  if (length >= whole) return *this;
  const auto row = at::floor_divide(offsets, whole);
  const auto position = (offsets - row * whole).clamp_max(length);
  return {starts.slice(1, 0, length), row * length + position, std::min(longest, length)};
}

Documents Documents::with_common_sizes() const {
  constexpr int64_t kOffsets = 64;
  const int64_t count = offsets.size(0), rounded = (count + kOffsets - 1) / kOffsets * kOffsets;
  const auto end = offsets.slice(0, count - 1).expand(rounded - count);
  const auto power = std::bit_ceil(static_cast<uint64_t>(longest));
  return {starts, at::cat({offsets, end}), std::min(static_cast<int64_t>(power), starts.size(1))};
}

Documents documents_of(const at::Tensor& document_ids) {
  const auto ids = document_ids.to(at::kCPU, at::kLong).contiguous();
  const int64_t rows = ids.size(0), length = ids.size(1);
  const auto* id = ids.const_data_ptr<int64_t>();
  auto starts = at::empty_like(ids);
  auto* start = starts.data_ptr<int64_t>();
  std::vector<int32_t> offsets;
  int64_t longest = 0;
  for (int64_t i = 0; i < rows * length; ++i) {
    const int64_t position = i % length;
    const bool begins = position == 0 || id[i] != id[i - 1];
    if (begins) offsets.push_back(static_cast<int32_t>(i));
    start[i] = begins ? position : start[i - 1];
    longest = std::max(longest, position - start[i] + 1);
  }
  offsets.push_back(static_cast<int32_t>(rows * length));
  const auto device = document_ids.device();
  return {starts.to(device), at::tensor(offsets, at::kInt).to(device), longest};
}

}  // namespace outrider::ops
