#include "parallel_heads.h"

#include <ATen/ATen.h>

namespace outrider::eagle {
namespace {

// Starts as x + silu(b), like the reference's.
std::shared_ptr<nn::Linear> initialized_block(int64_t size, at::TensorOptions options) {
  auto block = nn::initialized_linear(size, size, /*with_bias=*/true, options);
  const at::NoGradGuard no_grad;
  block->weight.zero_();
  return block;
}

}  // namespace

ParallelHeads::ParallelHeads(int64_t heads, int64_t blocks, int64_t hidden_size, int64_t vocab_size,
                             at::TensorOptions options)
    : lm_head(register_module("lm_head",
                              nn::initialized_linear(hidden_size, vocab_size, false, options))),
      heads_(static_cast<size_t>(heads)) {
  auto list = register_module("medusa_heads", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < heads; ++i) {
    auto head = list->register_module(std::to_string(i), std::make_shared<torch::nn::Module>());
    for (int64_t j = 0; j < blocks; ++j) {
      auto holder = head->register_module(std::to_string(j), std::make_shared<torch::nn::Module>());
      heads_[static_cast<size_t>(i)].push_back(
          holder->register_module("linear", initialized_block(hidden_size, options)));
    }
  }
}

at::Tensor ParallelHeads::forward(int64_t head, const at::Tensor& rows) const {
  auto x = rows;
  for (const auto& block : heads_.at(static_cast<size_t>(head))) {
    x = x + at::silu(block->forward(x));
  }
  return x;
}

}  // namespace outrider::eagle
