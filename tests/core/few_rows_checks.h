#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <cmath>

#include "outrider/model/base_model_registry.h"
#include "outrider/model/causal_lm.h"
#include "outrider/model/model_config.h"
#include "outrider/nn/kv_cache.h"
#include "outrider/ops/few_rows.h"

/// The operators for few rows against float64 and plain loops, for every device that has them.
namespace outrider::testing::few_rows {

using at::Tensor;

/// What rows are made of, where, and how much of the largest value rounding may take.
struct Kind {
  at::TensorOptions options, weights;
  double limit;
};

inline Tensor wide(const Tensor& x) { return x.to(at::kCPU, at::kDouble); }

// In shares of the largest expected.
inline double error_of(const Tensor& actual, const Tensor& expected) {
  const auto scale = expected.abs().max().item<double>();
  return (wide(actual) - expected).abs().max().item<double>() / scale;
}

inline Tensor normed(const Tensor& x, const ops::NormBefore& norm) {
  if (!norm.weight.defined()) return x;
  return x * (x.square().mean(-1, true) + norm.eps).rsqrt() * wide(norm.weight);
}

inline Tensor product(const Tensor& x, const ops::LinearParameters& layer) {
  const auto y = at::matmul(x, wide(layer.weight).t());
  return layer.bias.defined() ? y + wide(layer.bias) : y;
}

inline ops::LinearParameters layer_of(const Kind& kind, int64_t outputs, int64_t inner,
                                      bool has_bias) {
  return {at::randn({outputs, inner}, kind.weights) / std::sqrt(static_cast<double>(inner)),
          has_bias ? at::randn({outputs}, kind.weights) : Tensor()};
}

struct Sizes {
  int64_t rows, inner;
  std::vector<int64_t> outputs;
};

inline void check_product(const Kind& kind, const Sizes& sizes, bool is_normed, bool is_gated,
                          bool has_residual, bool has_bias) {
  CAPTURE(fmt::format("{} rows of {}, {} layers, first of {}, normed {} gated {} residual {}",
                      sizes.rows, sizes.inner, sizes.outputs.size(), sizes.outputs.front(),
                      is_normed, is_gated, has_residual));
  const auto x = at::randn({sizes.rows, sizes.inner}, kind.options);
  const ops::NormBefore norm{is_normed ? at::rand({sizes.inner}, kind.options) + 0.5 : Tensor(),
                             1e-5};
  std::vector<ops::LinearParameters> layers;
  std::vector<Tensor> expected;
  for (const int64_t outputs : sizes.outputs) {
    layers.push_back(layer_of(kind, outputs, sizes.inner, has_bias));
    expected.push_back(product(normed(wide(x), norm), layers.back()));
  }
  auto all = is_gated ? at::silu(expected[0]) * expected[1] : at::cat(expected, 1);
  const auto residual = has_residual ? at::randn(all.sizes(), kind.options) : Tensor();
  if (has_residual) all = all + wide(residual);
  const auto y = at::full(all.sizes(), 77.0, kind.options);
  const c10::InferenceMode inference;
  REQUIRE(ops::takes_few_rows(x, layers));
  ops::few_rows_product(x, norm, layers, is_gated ? ops::Joined::kGated : ops::Joined::kSideBySide,
                        residual, y);
  CHECK(error_of(y, all) < kind.limit);
}

/// Attention by plain loops over queries, in float64.
struct Case {
  int64_t batch, rows, heads, key_heads, size, rotated;
  std::vector<int64_t> lengths;
  bool has_norms = false, is_tree = false;
  int64_t older = 0, window = 0;  // rows of the tree that are kept already
};

inline Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const int64_t rotated = cos.size(-1), half = rotated / 2;
  const auto part = x.slice(-1, 0, rotated);
  const auto turned = at::cat({-part.slice(-1, half), part.slice(-1, 0, half)}, -1);
  return at::cat({part * cos + turned * sin, x.slice(-1, rotated)}, -1);
}

// A random tree of the last rows: each row sees its ancestors and itself.
inline Tensor tree_of(int64_t batch, int64_t rows) {
  auto seen = at::zeros({batch, rows, rows}, at::kBool);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t parent = i == 0 ? -1 : at::randint(0, i, {1}).item<int64_t>();
      if (parent >= 0) seen[b][i].copy_(seen[b][parent]);
      seen[b][i][i] = true;
    }
  }
  return seen;
}

inline void check_attention(const Kind& kind, const Case& c) {
  CAPTURE(fmt::format("{} sequences of {} rows, {} heads of {}, {} kept", c.batch, c.rows, c.heads,
                      c.size, c.lengths.front()));
  int64_t longest = 0;
  for (const int64_t length : c.lengths) longest = std::max(longest, length);
  const int64_t capacity = longest + c.rows + 5, all_heads = c.heads + 2 * c.key_heads;
  ops::FewRowsAttention a;
  a.qkv = at::randn({c.batch, c.rows, all_heads * c.size}, kind.options);
  a.keys = at::randn({c.batch, c.key_heads, capacity, c.size}, kind.options);
  a.values = at::randn_like(a.keys);
  if (c.has_norms) {
    a.query_norm = {at::rand({c.size}, kind.options) + 0.5, 1e-6};
    a.key_norm = {at::rand({c.size}, kind.options) + 0.5, 1e-6};
  }
  const auto angles = at::randn({capacity, c.rotated / 2}, at::kDouble);
  const auto both = at::cat({angles, angles}, 1);
  a.cos = both.cos().to(kind.options);
  a.sin = both.sin().to(kind.options);
  a.tables_by_position = true;
  const auto lengths = at::tensor(c.lengths, at::kLong);
  a.lengths = lengths.to(kind.options.device());
  const int64_t tree_rows = c.rows + c.older;
  const auto tree = tree_of(c.batch, tree_rows);
  const auto seen = tree.slice(1, c.older);
  auto positions = lengths.unsqueeze(1) + at::arange(c.rows);
  if (c.is_tree) {
    positions = lengths.unsqueeze(1) - c.older + seen.sum(2) - 1;
    a.seen = seen.to(kind.options.device()).contiguous();
  }
  a.positions = positions.to(kind.options.device());
  a.window = c.window;

  const auto kept_keys = wide(a.keys), kept_values = wide(a.values);
  const auto heads = wide(a.qkv).view({c.batch, c.rows, all_heads, c.size});
  const auto cos = wide(a.cos), sin = wide(a.sin);
  auto expected = at::zeros({c.batch, c.rows, c.heads, c.size}, at::kDouble);
  auto new_keys = at::zeros({c.batch, c.key_heads, c.rows, c.size}, at::kDouble);
  const auto position = [&](int64_t b, int64_t row) { return positions[b][row].item<int64_t>(); };
  for (int64_t b = 0; b < c.batch; ++b) {
    const int64_t kept = c.lengths[static_cast<size_t>(b)];
    for (int64_t row = 0; row < c.rows; ++row) {
      const int64_t at = position(b, row);
      for (int64_t h = 0; h < c.key_heads; ++h) {
        new_keys[b][h][row].copy_(
            rotate(normed(heads[b][row][c.heads + h], a.key_norm), cos[at], sin[at]));
      }
    }
    for (int64_t row = 0; row < c.rows; ++row) {
      const int64_t at = position(b, row);
      auto visible = at::zeros({kept + c.rows}, at::kBool);
      for (int64_t slot = 0; slot < kept + c.rows; ++slot) {
        const int64_t in_tree = slot - (kept - c.older);
        bool is_seen =
            c.is_tree ? in_tree < 0 || seen[b][row][in_tree].item<bool>() : slot <= kept + row;
        const int64_t key_position = slot < kept ? slot : position(b, slot - kept);
        if (c.window > 0 && at - key_position >= c.window) is_seen = false;
        visible[slot] = is_seen;
      }
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t key_head = h / (c.heads / c.key_heads);
        const auto query = rotate(normed(heads[b][row][h], a.query_norm), cos[at], sin[at]);
        const auto keys =
            at::cat({kept_keys[b][key_head].slice(0, 0, kept), new_keys[b][key_head]}, 0);
        const auto values = at::cat({kept_values[b][key_head].slice(0, 0, kept),
                                     heads[b].select(1, c.heads + c.key_heads + key_head)},
                                    0);
        const auto scores = at::matmul(keys, query) / std::sqrt(static_cast<double>(c.size));
        const auto weights =
            at::softmax(scores.masked_fill(at::logical_not(visible), -INFINITY), 0);
        expected[b][row][h].copy_(at::matmul(weights, values));
      }
    }
  }

  const c10::InferenceMode inference;
  REQUIRE(ops::attends_few_rows(a.qkv, c.size));
  const auto workspace = at::zeros({ops::few_rows_workspace(a)}, kind.options.dtype(at::kByte));
  const auto y = at::full({c.batch, c.rows, c.heads * c.size}, 77.0, kind.options);
  for (int i = 0; i < 2; ++i) {  // the workspace is ready for the next as it is left
    ops::few_rows_attention(a, workspace, y);
    CHECK(error_of(y, expected.flatten(2)) < kind.limit);
  }
  for (int64_t b = 0; b < c.batch; ++b) {
    const int64_t kept = c.lengths[static_cast<size_t>(b)];
    CHECK(error_of(a.keys[b].narrow(1, kept, c.rows), new_keys[b]) < kind.limit);
    CHECK(wide(a.keys[b].slice(1, 0, kept)).equal(kept_keys[b].slice(1, 0, kept)));
    CHECK(wide(a.keys[b].slice(1, kept + c.rows)).equal(kept_keys[b].slice(1, kept + c.rows)));
    CHECK(wide(a.values[b].narrow(1, kept, c.rows))
              .equal(heads[b].slice(1, c.heads + c.key_heads).transpose(0, 1)));
  }
}

inline ModelConfig config_of(const char* architecture, int64_t head_dim) {
  Json config = {{"architectures", {architecture}},
                 {"vocab_size", 505},
                 {"hidden_size", 256},
                 {"intermediate_size", 416},
                 {"num_hidden_layers", 3},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", head_dim},
                 {"max_position_embeddings", 4096},
                 {"rms_norm_eps", 1e-5},
                 {"tie_word_embeddings", false}};
  if (std::string(architecture) == "MistralForCausalLM") config["sliding_window"] = 24;
  return ModelConfig::from_json(config, "few rows");
}

inline std::shared_ptr<CausalLM> model_of(const Kind& kind, const ModelConfig& config) {
  auto model = BaseModelRegistry::instance().create(config, kind.options);
  const at::NoGradGuard no_grad;
  for (auto& parameter : model->parameters()) {
    parameter.dim() == 2 ? parameter.normal_(0, 0.08) : parameter.uniform_(0.5, 1.5);
  }
  return model;
}

inline HiddenStateRequest everything() {
  return {.layer_outputs = {0, 2}, .last_hidden_prenorm = true};
}

// Rows behind `kept` of them, by a pass with a cache that has `kept`, and by one pass over all.
inline void check_pass(const Kind& kind, CausalLM& model, const Tensor& ids, int64_t kept,
                       int64_t rows) {
  CAPTURE(fmt::format("{} kept, {} rows", kept, rows));
  const c10::InferenceMode inference;
  const auto whole =
      model.run_base({.input_ids = ids.slice(1, 0, kept + rows), .request = everything()});
  nn::KvCache cache(model.config().num_hidden_layers, ids.size(0));
  model.run_base({.input_ids = ids.slice(1, 0, kept), .request = everything(), .cache = &cache});
  cache.commit(std::vector<int64_t>(static_cast<size_t>(ids.size(0)), kept));
  for (int i = 0; i < 3; ++i) {  // plainly, recorded, launched again
    const auto few = model.run_base(
        {.input_ids = ids.slice(1, kept, kept + rows), .request = everything(), .cache = &cache});
    const auto same = [&](const Tensor& actual, const Tensor& expected) {
      CHECK(error_of(actual, wide(expected.slice(1, kept))) < 2 * kind.limit);
    };
    CHECK_FALSE(cache.prepared().empty());  // it did go this way
    CHECK(few.input_embeddings.equal(whole.input_embeddings.slice(1, kept)));
    same(few.layer_outputs.at(0), whole.layer_outputs.at(0));
    same(few.layer_outputs.at(2), whole.layer_outputs.at(2));
    same(few.last_hidden, whole.last_hidden);
    same(few.last_hidden_prenorm, whole.last_hidden_prenorm);
    same(model.head().logits(few.last_hidden.flatten(0, 1)).view({ids.size(0), rows, -1}),
         model.head().logits(whole.last_hidden.flatten(0, 1)).view({ids.size(0), kept + rows, -1}));
  }
}

inline void check_attentions(const Kind& kind) {
  at::manual_seed(32);
  check_attention(kind, {1, 1, 9, 3, 64, 64, {200}});
  check_attention(kind, {1, 1, 4, 4, 128, 128, {0}});
  check_attention(kind, {1, 1, 32, 8, 128, 128, {1}});
  check_attention(kind, {2, 1, 8, 2, 32, 32, {5, 700}});
  check_attention(kind, {1, 4, 8, 2, 64, 64, {1900}});
  check_attention(kind, {3, 5, 4, 2, 96, 48, {17, 0, 96}});
  check_attention(kind, {1, 32, 4, 1, 128, 128, {97}});
  check_attention(kind, {1, 3, 4, 2, 256, 64, {450}});
  check_attention(kind, {1, 6, 4, 2, 64, 64, {40}, /*has_norms=*/true});
  check_attention(kind, {1, 17, 8, 2, 128, 128, {130}, false, /*is_tree=*/true});
  check_attention(kind, {2, 9, 4, 2, 64, 64, {30, 500}, true, true});
  check_attention(kind, {1, 4, 4, 2, 64, 64, {40}, false, true, /*older=*/7});
  check_attention(kind, {1, 5, 4, 2, 64, 64, {300}, false, false, 0, /*window=*/24});
  check_attention(kind, {1, 5, 4, 2, 64, 64, {50}, false, true, 0, 12});
}

inline void check_bases(const Kind& kind) {
  at::manual_seed(33);
  const auto ids = at::randint(0, 505, {2, 120}, kind.options.dtype(at::kLong));
  for (const char* architecture : {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                                   "Qwen3ForCausalLM", "Phi3ForCausalLM"}) {
    CAPTURE(architecture);
    const auto model = model_of(kind, config_of(architecture, 64));
    for (const int64_t rows : {1, 3, 8}) {
      check_pass(kind, *model, ids, 70, rows);
      check_pass(kind, *model, ids.slice(0, 0, 1), 37, rows);
    }
  }
}

}  // namespace outrider::testing::few_rows
