#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "gradcheck.h"
#include "outrider/ops/attention.h"

namespace outrider::testing {
namespace {

struct Case {
  int64_t heads, kv_heads, length, head_dim;
  size_t diagonals;
  bool masked = false;
};

constexpr int64_t kBatch = 2;

/// query, prefix key and value, then key and value per diagonal.
struct Inputs {
  std::vector<at::Tensor> tensors;
  at::Tensor key_mask;
  std::vector<at::Tensor> diagonal_masks;

  Inputs with(std::vector<at::Tensor> others) const {
    return {std::move(others), key_mask, diagonal_masks};
  }
};

Inputs inputs_of(const Case& c) {
  Inputs inputs{{random({kBatch, c.heads, c.length, c.head_dim}, 1)}, {}, {}};
  for (uint64_t i = 0; i < 2 + 2 * c.diagonals; ++i) {
    inputs.tensors.push_back(random({kBatch, c.kv_heads, c.length, c.head_dim}, 2 + i));
  }
  if (!c.masked) return inputs;
  inputs.key_mask = random_mask({kBatch, c.length}, 0.7, 50);
  inputs.key_mask[1][0] = false;  // padding on the left: the first query has no prefix
  for (uint64_t i = 0; i < c.diagonals; ++i) {
    inputs.diagonal_masks.push_back(random_mask({kBatch, c.length}, 0.7, 60 + i));
  }
  return inputs;
}

std::vector<ops::DiagonalKeys> diagonals_of(const std::vector<at::Tensor>& tensors) {
  std::vector<ops::DiagonalKeys> diagonals;
  for (size_t i = 3; i < tensors.size(); i += 2) diagonals.push_back({tensors[i], tensors[i + 1]});
  return diagonals;
}

at::Tensor attend(const Inputs& in) {
  return ops::prefix_diagonal_attention(in.tensors[0], in.tensors[1], in.tensors[2],
                                        diagonals_of(in.tensors), in.key_mask, in.diagonal_masks);
}

at::Tensor row(const at::Tensor& x, int64_t b, int64_t h, int64_t i) { return x[b][h][i]; }

/// The keys and values that query i of one head may see, [n,D] each.
struct Visible {
  std::vector<at::Tensor> keys, values;
};

Visible visible_to(const Inputs& in, int64_t b, int64_t kv_head, int64_t i) {
  Visible seen;
  for (int64_t j = 0; j <= i; ++j) {
    if (in.key_mask.defined() && !in.key_mask[b][j].item<bool>()) continue;
    seen.keys.push_back(row(in.tensors[1], b, kv_head, j));
    seen.values.push_back(row(in.tensors[2], b, kv_head, j));
  }
  for (size_t d = 0; 3 + 2 * d < in.tensors.size(); ++d) {
    if (!in.diagonal_masks.empty() && !in.diagonal_masks[d][b][i].item<bool>()) continue;
    seen.keys.push_back(row(in.tensors[3 + 2 * d], b, kv_head, i));
    seen.values.push_back(row(in.tensors[4 + 2 * d], b, kv_head, i));
  }
  return seen;
}

// softmax(q·k / √D)·v over what is visible.
void attend_by_loops(const at::Tensor& query, const Visible& seen, const at::Tensor& output) {
  const int64_t size = query.size(0);
  const auto q = query.accessor<double, 1>();
  std::vector<double> weights;
  double total = 0.0;
  for (const auto& key : seen.keys) {
    const auto k = key.accessor<double, 1>();
    double score = 0.0;
    for (int64_t d = 0; d < size; ++d) score += q[d] * k[d];
    weights.push_back(std::exp(score / std::sqrt(static_cast<double>(size))));
    total += weights.back();
  }
  for (size_t n = 0; n < weights.size(); ++n) {
    for (int64_t d = 0; d < size; ++d) {
      output.accessor<double, 1>()[d] += weights[n] / total * seen.values[n].data_ptr<double>()[d];
    }
  }
}

at::Tensor attention_by_loops(const Inputs& in) {
  const auto& query = in.tensors[0];
  auto output = at::zeros(query.sizes(), at::kDouble);
  const int64_t group = query.size(1) / in.tensors[1].size(1);
  for (int64_t b = 0; b < query.size(0); ++b) {
    for (int64_t h = 0; h < query.size(1); ++h) {
      for (int64_t i = 0; i < query.size(2); ++i) {
        attend_by_loops(row(query, b, h, i), visible_to(in, b, h / group, i), row(output, b, h, i));
      }
    }
  }
  return output;
}

// Output and the gradients of all inputs, of a fixed weighted sum.
std::vector<at::Tensor> outputs_and_gradients(const Inputs& in, at::ScalarType type) {
  std::vector<at::Tensor> moved;
  for (const auto& tensor : in.tensors) moved.push_back(tensor.to(type).detach().requires_grad_());
  const auto output = attend(in.with(moved));
  auto results = torch::autograd::grad({output}, moved, {random(output.sizes(), 7).to(type)});
  results.push_back(output);
  return results;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool masked : {false, true}) {
    for (size_t diagonals = 0; diagonals <= 3; ++diagonals) {
      all.push_back({4, 2, 17, 8, diagonals, masked});
      all.push_back({3, 3, 2, 10, diagonals, masked});
      all.push_back({4, 1, 1, 10, diagonals, masked});
    }
  }
  return all;
}

TEST_CASE("attention over a prefix and diagonals equals plain loops") {
  for (const auto& c : cases()) {
    CAPTURE(c.length);
    CAPTURE(c.diagonals);
    CAPTURE(c.masked);
    const auto inputs = inputs_of(c);
    CHECK_CLOSE(attend(inputs), attention_by_loops(inputs), 1e-12);
  }
}

TEST_CASE("attention's gradients equal finite differences") {
  for (const bool masked : {false, true}) {
    for (size_t diagonals = 0; diagonals <= 3; ++diagonals) {
      CAPTURE(diagonals);
      CAPTURE(masked);
      const auto inputs = inputs_of({4, 2, 5, 10, diagonals, masked});
      check_gradients([&](const auto& tensors) { return attend(inputs.with(tensors)); },
                      inputs.tensors);
    }
  }
}

TEST_CASE("attention in lower precision stays near float64, gradients too") {
  const std::pair<at::ScalarType, double> tolerances[] = {
      {at::kFloat, 1e-5}, {at::kBFloat16, 0.06}, {at::kHalf, 0.01}};
  for (const auto& c : cases()) {
    for (const auto& [type, tolerance] : tolerances) {
      auto inputs = inputs_of(c);
      for (auto& tensor : inputs.tensors) tensor = tensor.to(type).to(at::kDouble);
      const auto exact = outputs_and_gradients(inputs, at::kDouble);
      const auto rounded = outputs_and_gradients(inputs, type);
      for (size_t i = 0; i < exact.size(); ++i) {
        CAPTURE(at::toString(type));
        CAPTURE(i);
        CAPTURE(c.length);
        CHECK((rounded[i].scalar_type() == type));
        CHECK_CLOSE(rounded[i], exact[i], tolerance * (1.0 + exact[i].abs().max().item<double>()));
      }
    }
  }
}

TEST_CASE("attention takes inputs of any layout") {
  for (const bool masked : {false, true}) {
    const auto inputs = inputs_of({4, 2, 6, 8, 2, masked});
    auto strided = inputs;
    for (auto& tensor : strided.tensors) {
      tensor = tensor.transpose(1, 2).contiguous().transpose(1, 2);
    }
    REQUIRE_FALSE(strided.tensors[0].is_contiguous());
    const auto expected = outputs_and_gradients(inputs, at::kDouble);
    const auto actual = outputs_and_gradients(strided, at::kDouble);
    for (size_t i = 0; i < expected.size(); ++i) CHECK_CLOSE(actual[i], expected[i], 1e-13);
  }
}

TEST_CASE("a query without any key gives zeros and passes no gradient on") {
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf}) {
    auto inputs = inputs_of({2, 2, 4, 8, 1, true});
    inputs.key_mask = at::tensor({0, 0, 1, 1, 1, 1, 1, 1}).view({2, 4}).ne(0);
    inputs.diagonal_masks = {at::tensor({0, 1, 1, 0, 1, 1, 1, 1}).view({2, 4}).ne(0)};
    const auto results = outputs_and_gradients(inputs, type);
    CHECK(results.back()[0].select(1, 0).abs().max().item<double>() == 0.0);
    CHECK(results[0][0].select(1, 0).abs().max().item<double>() == 0.0);
    for (const auto& result : results) CHECK(result.isfinite().all().item<bool>());
  }
}

// Step k of training-time test over the keys of blocks 0 … k, as one dense mask: query q sees key j
// of block 0 for j <= q-k, and of a block i >= 1 the one key q-(k-i).
at::Tensor dense_step_mask(int64_t length, int64_t step) {
  auto mask = at::zeros({length, length * (step + 1)}, at::kBool);
  for (int64_t q = 0; q < length; ++q) {
    for (int64_t j = 0; j <= q - step; ++j) mask[q][j] = true;
    for (int64_t i = 1; i <= step; ++i) {
      const int64_t j = q - (step - i);
      if (j >= 0) mask[q][i * length + j] = true;
    }
  }
  return mask;
}

TEST_CASE("lags made by slicing equal the dense mask of training-time test") {
  constexpr int64_t kLength = 9;
  for (int64_t step = 0; step <= 3; ++step) {
    const auto query = random({kBatch, 2, kLength, 8}, 1);
    std::vector<at::Tensor> keys, values;
    for (int64_t i = 0; i <= step; ++i) {
      keys.push_back(random({kBatch, 2, kLength, 8}, 10 + static_cast<uint64_t>(i)));
      values.push_back(random({kBatch, 2, kLength, 8}, 20 + static_cast<uint64_t>(i)));
    }
    const auto scores = at::matmul(query, at::cat(keys, 2).transpose(2, 3)) / std::sqrt(8.0);
    const auto masked = scores.masked_fill(dense_step_mask(kLength, step).logical_not(), -1e30);
    const auto dense = at::matmul(at::softmax(masked, -1), at::cat(values, 2)).slice(2, step);
    std::vector<ops::DiagonalKeys> diagonals;
    for (size_t i = 1; i < keys.size(); ++i) {
      const auto first = static_cast<int64_t>(i), end = first + kLength - step;
      diagonals.push_back({keys[i].slice(2, first, end), values[i].slice(2, first, end)});
    }
    const auto sliced =
        ops::prefix_diagonal_attention(query.slice(2, step), keys[0].slice(2, 0, kLength - step),
                                       values[0].slice(2, 0, kLength - step), diagonals);
    CHECK_CLOSE(sliced, dense, 1e-12);
  }
}

// Documents of these lengths in each of two rows, and where their pieces lie.
ops::Documents documents_in_rows(const std::vector<std::vector<int64_t>>& rows) {
  std::vector<int64_t> ids;
  for (const auto& lengths : rows) {
    for (size_t n = 0; n < lengths.size(); ++n) {
      ids.insert(ids.end(), static_cast<size_t>(lengths[n]), static_cast<int64_t>(n % 2));
    }
  }
  return ops::documents_of(
      at::tensor(ids, at::kLong).view({static_cast<int64_t>(rows.size()), -1}));
}

TEST_CASE("documents are found by their ids, and cut by a length") {
  const auto documents = documents_in_rows({{3, 1, 2}, {6}});
  CHECK(at::equal(documents.starts,
                  at::tensor({0, 0, 0, 3, 4, 4, 0, 0, 0, 0, 0, 0}, at::kLong).view({2, 6})));
  CHECK(at::equal(documents.offsets, at::tensor({0, 3, 4, 6, 12}, at::kInt)));
  CHECK(documents.longest == 6);
  const auto cut = documents.first(4);
  CHECK(at::equal(cut.starts, documents.starts.slice(1, 0, 4)));
  CHECK(at::equal(cut.offsets, at::tensor({0, 3, 4, 4, 8}, at::kInt)));
  CHECK(cut.longest == 4);
  const auto common = documents.with_common_sizes();
  CHECK(common.offsets.size(0) == 64);
  CHECK(at::equal(common.offsets.slice(0, 0, 5), documents.offsets));
  CHECK(common.offsets.slice(0, 5).eq(12).all().item<bool>());
  CHECK(common.longest == 6);  // no more than a row holds
  CHECK(documents_in_rows({{3, 5, 4}}).with_common_sizes().longest == 8);
}

TEST_CASE("attention within documents is that of each alone, gradients too") {
  const std::vector<std::vector<int64_t>> rows = {{3, 1, 5}, {7, 2}};
  const auto documents = documents_in_rows(rows);
  for (const bool masked : {false, true}) {
    for (const auto window : {std::optional<int64_t>(), std::optional<int64_t>(2)}) {
      const auto inputs = inputs_of({4, 2, 9, 8, 0, masked});
      const auto attend_rows = [&](const auto& x) {
        return ops::causal_attention(x[0], x[1], x[2], inputs.key_mask, window, documents);
      };
      const auto together = attend_rows(inputs.tensors);
      for (size_t row = 0; row < rows.size(); ++row) {
        int64_t begin = 0;
        for (const int64_t length : rows[row]) {
          const auto piece = [&](const at::Tensor& x, int64_t dim) {
            return x.narrow(0, static_cast<int64_t>(row), 1).narrow(dim, begin, length);
          };
          const auto& x = inputs.tensors;
          const auto mask = masked ? piece(inputs.key_mask, 1) : at::Tensor();
          const auto alone =
              ops::causal_attention(piece(x[0], 2), piece(x[1], 2), piece(x[2], 2), mask, window);
          CHECK_CLOSE(piece(together, 2), alone, 1e-12);
          begin += length;
        }
      }
      check_gradients(attend_rows, inputs.tensors);
    }
  }
}

TEST_CASE("diagonals join attention within documents") {
  const auto documents = documents_in_rows({{3, 1, 5}, {7, 2}});
  const auto inputs = inputs_of({4, 2, 9, 8, 2, false});
  const auto with_ids = [&](const auto& x, const at::Tensor& key_mask) {
    return ops::prefix_diagonal_attention(x[0], x[1], x[2], diagonals_of(x), key_mask, {},
                                          documents);
  };
  check_gradients([&](const auto& x) { return with_ids(x, {}); }, inputs.tensors);
  // A mask without holes takes the composed way.
  const auto all = at::ones({kBatch, 9}, at::kBool);
  CHECK_CLOSE(with_ids(inputs.tensors, {}), with_ids(inputs.tensors, all), 1e-12);
}

TEST_CASE("of keys that are more than the queries the first are read, and have a gradient") {
  for (const size_t diagonals : {size_t{0}, size_t{3}}) {
    const auto whole = inputs_of({4, 2, 7, 8, diagonals});
    const int64_t count = 5;
    auto some = whole.with({whole.tensors[0].slice(2, 0, count)});
    auto cut = some;
    for (size_t i = 1; i < whole.tensors.size(); ++i) {
      some.tensors.push_back(whole.tensors[i]);
      cut.tensors.push_back(whole.tensors[i].slice(2, 0, count));
    }
    const auto actual = outputs_and_gradients(some, at::kDouble);
    const auto expected = outputs_and_gradients(cut, at::kDouble);
    for (size_t i = 0; i < actual.size(); ++i) {
      CHECK(at::equal(actual[i].slice(2, 0, count), expected[i]));
      CHECK(actual[i].slice(2, count).eq(0).all().item<bool>());
    }
    CHECK(actual[1].size(2) == 7);
  }
}

TEST_CASE("attention refuses heads that do not divide and fewer keys than queries") {
  const auto query = random({1, 3, 4, 8}, 1), two_heads = random({1, 2, 4, 8}, 2);
  const auto shorter = random({1, 3, 3, 8}, 3);
  for (const auto& key : {two_heads, shorter}) {
    CHECK_CONTAINS(
        failure(ErrorCode::kInternal, [&] { ops::prefix_diagonal_attention(query, key, key); }),
        "query [B,H,S,D]");
  }
  CHECK_CONTAINS(
      failure(ErrorCode::kInternal,
              [&] {
                ops::prefix_diagonal_attention(query, query, query, {{shorter, shorter}});
              }),
      "keys and values [B,Hkv,S or more,D]");
}

}  // namespace
}  // namespace outrider::testing
