#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "gradcheck.h"
#include "outrider/model/sliding_window.h"
#include "outrider/ops/attention.h"

namespace outrider::testing {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

constexpr int64_t kNone = -1;
using Windows = std::vector<int64_t>;

// [B,1,S,S]: j ≤ i, i - j < window, and the key is allowed.
at::Tensor visible_pairs(int64_t length, int64_t window, const at::Tensor& key_mask) {
  const auto at_i = at::arange(length).unsqueeze(1), at_j = at::arange(length).unsqueeze(0);
  auto visible = at_j.le(at_i).logical_and((at_i - at_j).lt(window)).view({1, 1, length, length});
  if (key_mask.defined()) visible = visible.logical_and(key_mask.unsqueeze(1).unsqueeze(1));
  return visible;
}

at::Tensor dense_attention(const std::vector<at::Tensor>& qkv, const at::Tensor& visible) {
  const int64_t group = qkv[0].size(1) / qkv[1].size(1);
  const auto key = qkv[1].repeat_interleave(group, 1), value = qkv[2].repeat_interleave(group, 1);
  const auto scores =
      at::matmul(qkv[0], key.transpose(2, 3)) / std::sqrt(static_cast<double>(qkv[0].size(3)));
  const auto weights = at::softmax(scores.masked_fill(visible.logical_not(), kMinusInfinity), -1);
  return at::matmul(weights.nan_to_num(), value);
}

std::vector<at::Tensor> query_key_value(int64_t length, int64_t head_dim) {
  return {random({2, 4, length, head_dim}, 1), random({2, 2, length, head_dim}, 2),
          random({2, 2, length, head_dim}, 3)};
}

// Holes, and more padding on the left than a window holds.
at::Tensor holes(int64_t length) {
  auto mask = random_mask({2, length}, 0.6, 4);
  mask[1].slice(0, 0, length / 2).fill_(false);
  return mask;
}

at::Tensor attend_within(const std::vector<at::Tensor>& qkv, const at::Tensor& key_mask,
                         std::optional<int64_t> window) {
  return ops::causal_attention(qkv[0], qkv[1], qkv[2], key_mask, window);
}

TEST_CASE("attention in a window equals a dense mask, with holes and without") {
  const auto qkv = query_key_value(13, 10);
  for (const int64_t window : {1, 2, 5, 12, 13, 100}) {
    for (const auto& key_mask : {at::Tensor(), holes(13)}) {
      CAPTURE(window);
      CAPTURE(key_mask.defined());
      const auto expected = dense_attention(qkv, visible_pairs(13, window, key_mask));
      CHECK_CLOSE(attend_within(qkv, key_mask, window), expected, 1e-12);
    }
  }
}

TEST_CASE("a window as long as the sequence changes no bit") {
  const auto qkv = query_key_value(9, 8);
  CHECK_CLOSE(attend_within(qkv, {}, 9), attend_within(qkv, {}, {}), 0.0);
  CHECK(largest_difference(attend_within(qkv, {}, 8), attend_within(qkv, {}, {})) > 1e-3);
}

TEST_CASE("gradients of attention in a window equal finite differences") {
  for (const auto& key_mask : {at::Tensor(), holes(7)}) {
    check_gradients([&](const auto& tensors) { return attend_within(tensors, key_mask, 3); },
                    query_key_value(7, 6));
  }
}

// Longer than the kernels' blocks, so that whole blocks of keys are out of sight.
TEST_CASE("a short window in a long sequence, in every precision, with gradients") {
  constexpr int64_t kLength = 700;
  const std::pair<at::ScalarType, double> tolerances[] = {
      {at::kDouble, 1e-12}, {at::kFloat, 2e-5}, {at::kBFloat16, 0.06}, {at::kHalf, 0.02}};
  for (const auto& [type, tolerance] : tolerances) {
    CAPTURE(at::toString(type));
    std::vector<at::Tensor> rounded, exact;
    for (const auto& tensor : query_key_value(kLength, 8)) {
      rounded.push_back(tensor.to(type).detach().requires_grad_());
      exact.push_back(tensor.to(type).to(at::kDouble).detach().requires_grad_());
    }
    const auto key_mask = holes(kLength);
    const auto actual = attend_within(rounded, key_mask, 11);
    const auto expected = dense_attention(exact, visible_pairs(kLength, 11, key_mask));
    CHECK_CLOSE(actual, expected, tolerance);
    const auto weights = random(actual.sizes(), 5);
    const auto found = torch::autograd::grad({actual}, rounded, {weights.to(type)});
    const auto wanted = torch::autograd::grad({expected}, exact, {weights});
    for (size_t i = 0; i < found.size(); ++i) {
      CHECK_CLOSE(found[i], wanted[i], tolerance * (1.0 + wanted[i].abs().max().item<double>()));
    }
  }
}

TEST_CASE("a window below 1 is a defect") {
  const auto qkv = query_key_value(4, 8);
  CHECK_CONTAINS(failure(ErrorCode::kInternal, [&] { attend_within(qkv, {}, 0); }),
                 "window below 1");
}

ModelConfig config_with(const Json& more) {
  Json json = {{"architectures", {"Qwen2ForCausalLM"}},
               {"vocab_size", 8},
               {"hidden_size", 8},
               {"intermediate_size", 8},
               {"num_hidden_layers", 3},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 2}};
  json.update(more);
  return ModelConfig::from_json(json, "config.json");
}

Windows by_layer(const Json& more) {
  Windows windows;
  for (const auto& window : windows_by_layer(config_with(more))) {
    windows.push_back(window.value_or(kNone));
  }
  return windows;
}

TEST_CASE("which layers have a window, as the Qwen families say it") {
  const Windows none(3, kNone);
  CHECK(by_layer(Json::object()) == none);
  CHECK(by_layer({{"sliding_window", 4}, {"max_window_layers", 0}}) == none);
  CHECK(by_layer({{"use_sliding_window", true}}) == none);  // the first 28 have none
  CHECK(by_layer({{"use_sliding_window", true}, {"max_window_layers", 2}}) ==
        Windows{kNone, kNone, 4096});
  CHECK(by_layer({{"use_sliding_window", true}, {"sliding_window", 7}, {"max_window_layers", 0}}) ==
        Windows{7, 7, 7});
  CHECK(by_layer({{"use_sliding_window", true},
                  {"sliding_window", nullptr},
                  {"max_window_layers", 0}}) == none);
  CHECK(by_layer({{"use_sliding_window", true},
                  {"sliding_window", 7},
                  {"layer_types", {"sliding_attention", "full_attention", "sliding_attention"}}}) ==
        Windows{7, kNone, 7});
}

TEST_CASE("layer types that are unknown, too few or without a window are refused") {
  const auto types = [](const Json& list, const Json& use) {
    return Json{{"use_sliding_window", use}, {"layer_types", list}};
  };
  const Json full = "full_attention", sliding = "sliding_attention";
  CHECK_CONTAINS(failure(ErrorCode::kUnsupported,
                         [&] {
                           by_layer(types({full, "chunked_attention", full}, true));
                         }),
                 "Qwen2ForCausalLM: 'layer_types' has \"chunked_attention\", supported are");
  CHECK_CONTAINS(failure(ErrorCode::kInvalidConfig,
                         [&] {
                           by_layer(types({full, sliding}, true));
                         }),
                 "'layer_types' is no list of 3 layer types");
  CHECK_CONTAINS(
      failure(ErrorCode::kInvalidConfig,
              [&] {
                by_layer(types({full, sliding, full}, false));
              }),
      "'layer_types' has sliding layers, but 'use_sliding_window' and 'sliding_window' give no");
  for (const auto& wrong : {Json(0), Json(-3), Json("4"), Json(1.5)}) {
    CHECK_CONTAINS(failure(ErrorCode::kInvalidConfig,
                           [&] {
                             by_layer({{"use_sliding_window", true}, {"sliding_window", wrong}});
                           }),
                   "'sliding_window' is " + wrong.dump());
  }
}

TEST_CASE("a window of all layers: absent, null and a number differ") {
  CHECK(window_of_all_layers(config_with(Json::object()), 4096) == 4096);
  CHECK(window_of_all_layers(config_with({{"sliding_window", nullptr}}), 4096) == std::nullopt);
  CHECK(window_of_all_layers(config_with({{"sliding_window", 5}}), {}) == 5);
  CHECK(window_of_all_layers(config_with(Json::object()), {}) == std::nullopt);
}

TEST_CASE("a window of all layers that other keys contradict is refused with each of them") {
  const auto text = failure(ErrorCode::kInvalidConfig, [&] {
    window_of_all_layers(
        config_with({{"sliding_window", 5},
                     {"use_sliding_window", false},
                     {"layer_types", {"sliding_attention", "full_attention", "full_attention"}}}),
        {});
  });
  CHECK_CONTAINS(text, "'use_sliding_window' is false, but 'sliding_window' is set");
  CHECK_CONTAINS(text, "'layer_types' differ from 'sliding_window'");
}

}  // namespace
}  // namespace outrider::testing
