#include "distributed/bucketed_sum.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace outrider {
namespace {

// Large enough to fill a link, small enough to begin early.
constexpr int64_t kBucketBytes = int64_t{25} << 20;

std::vector<std::vector<size_t>> buckets_from_the_end(const std::vector<at::Tensor>& tensors) {
  std::vector<std::vector<size_t>> buckets;
  int64_t bytes = kBucketBytes;
  for (size_t i = tensors.size(); i-- > 0;) {
    if (!tensors[i].defined()) continue;
    if (bytes >= kBucketBytes) {
      buckets.emplace_back();
      bytes = 0;
    }
    bytes += static_cast<int64_t>(tensors[i].nbytes());
    buckets.back().push_back(i);
  }
  return buckets;
}

}  // namespace

void BucketedSum::ready(size_t index, const at::Tensor& tensor) {
  if (index >= ready_.size()) return;  // of the first sum nothing is known yet
  ready_[index] = tensor;
  while (sent_ < buckets_.size() && is_complete(buckets_[sent_])) send(buckets_[sent_++]);
}

bool BucketedSum::is_complete(const Bucket& bucket) const {
  return std::ranges::all_of(bucket, [&](size_t index) { return ready_[index].defined(); });
}

void BucketedSum::send(const Bucket& bucket) {
  std::vector<at::Tensor> tensors;
  for (const size_t index : bucket) {
    if (ready_[index].defined()) tensors.push_back(std::exchange(ready_[index], at::Tensor()));
  }
  if (!tensors.empty()) pending_.push_back(processes_.begin_sum(std::move(tensors)));
}

void BucketedSum::finish(const std::vector<at::Tensor>& tensors) {
  std::vector<bool> is_sent(tensors.size());
  for (size_t b = 0; b < sent_; ++b) {
    for (const size_t index : buckets_[b]) is_sent[index] = true;
  }
  ready_ = tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (is_sent[i]) ready_[i].reset();
  }
  for (const auto& bucket : buckets_from_the_end(ready_)) send(bucket);
  for (const auto& wait : std::exchange(pending_, {})) wait();
  buckets_ = buckets_from_the_end(tensors);
  ready_.assign(tensors.size(), at::Tensor());
  sent_ = 0;
}

}  // namespace outrider
