#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include "device.h"
#include "outrider/ops/attention.h"

namespace outrider::testing::attention_tests {
namespace {

struct Case {
  int64_t heads, kv_heads, length, head_dim;
  int diagonals;
  bool masked;
};

struct AttentionInputs {
  std::vector<at::Tensor> tensors;  // query, prefix key and value, then per diagonal key and value
  at::Tensor key_mask;
  std::vector<at::Tensor> diagonal_masks;
  at::Tensor grad;

  AttentionInputs to(at::Device device, at::ScalarType type) const {
    AttentionInputs moved;
    for (const auto& tensor : tensors) {
      moved.tensors.push_back(tensor.to(device, type).requires_grad_());
    }
    moved.key_mask = key_mask.defined() ? key_mask.to(device) : key_mask;
    for (const auto& mask : diagonal_masks) moved.diagonal_masks.push_back(mask.to(device));
    moved.grad = grad.to(device, type);
    return moved;
  }
};

AttentionInputs random_inputs(const Case& c, at::ScalarType type) {
  constexpr int64_t kBatch = 2;
  AttentionInputs inputs;
  const auto add = [&](int64_t heads) {
    inputs.tensors.push_back(at::randn({kBatch, heads, c.length, c.head_dim}).to(type));
  };
  add(c.heads);
  for (int i = 0; i < 2 + 2 * c.diagonals; ++i) add(c.kv_heads);
  if (c.masked) {  // holes, and the first key of the second sequence: its first query has no prefix
    inputs.key_mask = at::rand({kBatch, c.length}) > 0.3;
    inputs.key_mask[1][0] = false;
    for (int d = 0; d < c.diagonals; ++d) {
      inputs.diagonal_masks.push_back(at::rand({kBatch, c.length}) > 0.3);
    }
  }
  inputs.grad = at::randn({kBatch, c.heads, c.length, c.head_dim}).to(type);
  return inputs;
}

// The output and the gradients of all inputs.
std::vector<at::Tensor> run(const AttentionInputs& in,
                            const std::optional<ops::Documents>& documents = {}) {
  std::vector<ops::DiagonalKeys> diagonals;
  for (size_t i = 3; i < in.tensors.size(); i += 2) {
    diagonals.push_back({in.tensors[i], in.tensors[i + 1]});
  }
  const auto output =
      ops::prefix_diagonal_attention(in.tensors[0], in.tensors[1], in.tensors[2], diagonals,
                                     in.key_mask, in.diagonal_masks, documents);
  auto results = torch::autograd::grad({output}, in.tensors, {in.grad});
  results.insert(results.begin(), output.detach());
  return results;
}

void check_case(const Case& c, at::ScalarType type) {
  const auto inputs = random_inputs(c, type);
  const auto actual = run(inputs.to(at::kCUDA, type));
  const auto expected = run(inputs.to(at::kCPU, at::kDouble));
  const double limit = type == at::kFloat ? 2e-4 : 3e-2;
  for (size_t i = 0; i < actual.size(); ++i) {
    CAPTURE(fmt::format("{} of {} heads, {} kv, S {}, D {}, {} diagonals, masked {}: result {}",
                        c10::toString(type), c.heads, c.kv_heads, c.length, c.head_dim, c.diagonals,
                        c.masked, i));
    CHECK(type_name(actual[i]) == c10::toString(type));
    CHECK(difference(actual[i], expected[i], 1) < limit);
  }
}

void check_heads(int64_t heads, int64_t kv_heads) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t head_dim : {64, 80, 128}) {
      for (const int64_t length : {1, 33, 200}) {
        for (const int diagonals : {0, 1, 3, 17}) {
          for (const bool masked : {false, true}) {
            check_case({heads, kv_heads, length, head_dim, diagonals, masked}, type);
          }
        }
      }
    }
  }
}

}  // namespace

TEST_CASE("prefix and diagonal attention on the device agrees with float64 on the cpu") {
  at::manual_seed(5);
  check_heads(4, 4);
}

TEST_CASE("prefix and diagonal attention shares keys between the queries of a group") {
  at::manual_seed(6);
  check_heads(6, 2);
}

TEST_CASE("attention of long rows, which other kernels compute, agrees as well") {
  at::manual_seed(8);
  for (const int64_t head_dim : {64, 80, 96, 128, 256}) {
    for (const int64_t length : {256, 257, 600}) {
      for (const int diagonals : {0, 2}) {
        check_case({6, 2, length, head_dim, diagonals, /*masked=*/false}, at::kBFloat16);
      }
    }
  }
}

TEST_CASE("attention within documents on the device agrees with float64 on the cpu") {
  at::manual_seed(9);
  const auto ids = at::cat({at::arange(300).floor_divide(70), at::arange(300).floor_divide(299)})
                       .view({2, 300})
                       .to(at::kLong);
  for (const auto type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t head_dim : {64, 80, 128, 256}) {
      for (const int diagonals : {0, 1, 6, 20}) {
        const auto inputs = random_inputs({6, 2, 300, head_dim, diagonals, false}, type);
        const auto actual = run(inputs.to(at::kCUDA, type), ops::documents_of(ids.cuda()));
        const auto expected = run(inputs.to(at::kCPU, at::kDouble), ops::documents_of(ids));
        for (size_t i = 0; i < actual.size(); ++i) {
          CAPTURE(fmt::format("{}, D {}, {} diagonals: result {}", c10::toString(type), head_dim,
                              diagonals, i));
          CHECK(difference(actual[i], expected[i], 1) < (type == at::kFloat ? 2e-4 : 3e-2));
        }
      }
    }
  }
}

TEST_CASE("attention within many documents of all lengths reads each one's keys alone") {
  at::manual_seed(22);
  constexpr int64_t kLength = 700;
  std::vector<int64_t> lengths = {1, 63, 64, 65, 2, 200, 130, 5, 170, 500, 127, 1, 72};
  std::vector<int64_t> ids;
  for (size_t i = 0; i < lengths.size(); ++i) ids.insert(ids.end(), lengths[i], i);
  REQUIRE(static_cast<int64_t>(ids.size()) == 2 * kLength);
  const auto whole = ops::documents_of(at::tensor(ids, at::kLong).view({2, kLength}));
  const auto on_gpu = [](const ops::Documents& d) {
    return ops::Documents{on_device(d.starts), on_device(d.offsets), d.longest};
  };
  for (const auto type : {at::kBFloat16, at::kHalf}) {
    for (const int64_t head_dim : {64, 128}) {
      for (const auto& [heads, kv_heads] : {std::pair<int64_t, int64_t>{6, 2}, {3, 3}}) {
        for (const int64_t cut : {0, 3}) {  // as a later step reads them
          CAPTURE(
              fmt::format("{}, D {}, {} heads, cut {}", c10::toString(type), head_dim, heads, cut));
          const auto inputs = random_inputs({heads, kv_heads, kLength, head_dim, 1, false}, type);
          const auto later = [&](AttentionInputs in, const ops::Documents& documents) {
            auto query = in.tensors[0].slice(2, cut);
            in.tensors[0] = query;
            in.grad = in.grad.slice(2, cut);
            return run(in, documents);
          };
          const auto documents = whole.with_common_sizes().first(kLength - cut);
          const auto actual = later(inputs.to(at::kCUDA, type), on_gpu(documents));
          const auto expected = later(inputs.to(at::kCPU, at::kDouble), documents);
          for (size_t i = 0; i < actual.size(); ++i) {
            CAPTURE(i);
            CHECK(difference(actual[i], expected[i], 1) < 3e-2);
          }
        }
      }
    }
  }
  for (const int64_t window : {1, 40, 64, 129, 600}) {
    const auto inputs = random_inputs({4, 2, kLength, 64, 0, false}, at::kBFloat16);
    const auto windowed = [&](const AttentionInputs& in, const ops::Documents& documents) {
      return ops::causal_attention(in.tensors[0], in.tensors[1], in.tensors[2], {}, window,
                                   documents)
          .detach();
    };
    CAPTURE(window);
    CHECK(difference(windowed(inputs.to(at::kCUDA, at::kBFloat16), on_gpu(whole)),
                     windowed(inputs.to(at::kCPU, at::kDouble), whole), 1) < 3e-2);
  }
}

TEST_CASE("of keys that are more than the queries the first are read on the device, too") {
  at::manual_seed(18);
  for (const int64_t length : {70, 300}) {  // of the kernels for short rows, and for long ones
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const auto inputs = random_inputs({4, 2, length, 64, 2, false}, type);
      const auto later = [](const AttentionInputs& in) {
        auto cut = in;
        cut.tensors[0] = in.tensors[0].slice(2, 3);
        cut.grad = in.grad.slice(2, 3);
        return run(cut);
      };
      const auto actual = later(inputs.to(at::kCUDA, type));
      const auto expected = later(inputs.to(at::kCPU, at::kDouble));
      for (size_t i = 0; i < actual.size(); ++i) {
        CAPTURE(fmt::format("{} S {}: result {}", c10::toString(type), length, i));
        CHECK(actual[i].sizes() == expected[i].sizes());
        CHECK(difference(actual[i], expected[i], 1) < (type == at::kFloat ? 2e-4 : 3e-2));
      }
    }
  }
}

TEST_CASE("attention works on slices, as the lag of training-time test makes them") {
  at::manual_seed(7);
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const auto inputs = random_inputs({4, 2, 70, 64, 1, false}, type);
    const auto lagged = [](const AttentionInputs& in) {
      auto sliced = in;
      for (size_t i = 0; i < in.tensors.size(); ++i) {
        const bool is_prefix = i == 1 || i == 2;
        sliced.tensors[i] = is_prefix ? in.tensors[i].slice(2, 0, 67) : in.tensors[i].slice(2, 3);
      }
      sliced.grad = in.grad.slice(2, 3);
      return run(sliced);
    };
    const auto actual = lagged(inputs.to(at::kCUDA, type));
    const auto expected = lagged(inputs.to(at::kCPU, at::kDouble));
    for (size_t i = 0; i < actual.size(); ++i) {
      CAPTURE(i);
      CHECK(difference(actual[i], expected[i], 1) < (type == at::kFloat ? 2e-4 : 3e-2));
    }
  }
}

}  // namespace outrider::testing::attention_tests
