#include "outrider/decode/prompt_lookup.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "outrider/decode/draft_tree.h"
#include "outrider/error.h"

namespace outrider::decode {
namespace {

using Tokens = std::vector<int64_t>;

// Where the sequence goes on after the latest earlier occurrence of its last `count` tokens; its
// end where there is none.
size_t continuation(const Tokens& sequence, size_t count) {
  const size_t size = sequence.size();
  if (size < count + 1) return size;
  for (size_t end = size - 1; end >= count; --end) {
    if (std::equal(sequence.end() - static_cast<std::ptrdiff_t>(count), sequence.end(),
                   sequence.begin() + static_cast<std::ptrdiff_t>(end - count))) {
      return end;
    }
  }
  return size;
}

// As long as the tree that was asked for is deep.
int64_t chain_length(const DraftRequest& request) {
  if (request.form) return static_cast<int64_t>(levels_of(*request.form).size());
  return request.width == 1 ? request.max_tokens : request.depth;
}

class PromptLookup : public Drafter {
 public:
  explicit PromptLookup(int64_t longest) : longest_(static_cast<size_t>(longest)) {}

  void prefill(const BaseOutputs& accepted, const at::Tensor& tokens) override {
    sequences_.resize(static_cast<size_t>(tokens.size(0)));
    commit(accepted, tokens);
  }

  DraftTree propose(const DraftRequest& request) override {
    const auto batch = static_cast<int64_t>(sequences_.size());
    const int64_t count = chain_length(request);
    auto tokens = at::full({batch, count}, -1, at::kLong);
    for (int64_t b = 0; b < batch; ++b) {
      const auto& sequence = sequences_[static_cast<size_t>(b)];
      const auto begin = found(sequence);
      const auto end = std::min(sequence.size(), begin + static_cast<size_t>(count));
      for (size_t i = begin; i < end; ++i) {
        tokens[b][static_cast<int64_t>(i - begin)] = sequence[i];
      }
    }
    const auto parents = at::arange(-1, count - 1, at::kLong).expand({batch, count});
    return {tokens.to(device_), parents.to(device_), {}, /*is_chain=*/true};
  }

  void commit(const BaseOutputs&, const at::Tensor& tokens) override {
    device_ = tokens.device();
    const auto ids = tokens.to(at::kCPU).contiguous();
    for (int64_t b = 0; b < ids.size(0); ++b) {
      const auto* row = ids.const_data_ptr<int64_t>() + b * ids.size(1);
      auto& sequence = sequences_[static_cast<size_t>(b)];
      std::copy_if(row, row + ids.size(1), std::back_inserter(sequence),
                   [](int64_t token) { return token >= 0; });
    }
  }

  void keep(const std::vector<int64_t>& sequences) override {
    std::vector<Tokens> kept;
    for (const int64_t b : sequences) kept.push_back(std::move(sequences_[static_cast<size_t>(b)]));
    sequences_ = std::move(kept);
  }

 private:
  size_t found(const Tokens& sequence) const {
    for (size_t count = longest_; count > 0; --count) {
      const auto place = continuation(sequence, count);
      if (place < sequence.size()) return place;
    }
    return sequence.size();
  }

  size_t longest_;
  std::vector<Tokens> sequences_;
  at::Device device_ = at::kCPU;
};

}  // namespace

std::unique_ptr<Drafter> prompt_lookup(int64_t longest) {
  if (longest < 1) throw Error(ErrorCode::kInvalidArgument, "prompt lookup: at least one token");
  return std::make_unique<PromptLookup>(longest);
}

}  // namespace outrider::decode
