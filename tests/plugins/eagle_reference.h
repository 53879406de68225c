#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace outrider::testing {

/// EAGLE-3's training-time test written out the slow way, as ModelOpt 0.47 runs it: tensors of full
/// length in every step, states rolled by one place, the keys of all steps side by side under a
/// dense mask, whole logits. Everything is float64 and differentiated by autograd.
struct EagleReference {
  int64_t steps = 3, heads = 4, kv_heads = 2, head_dim = 4, layers = 1;
  double eps = 1e-5, decay = 0.9, rope_theta = 10000.0;
  bool norms_hidden_twice = false, masks_padding_keys = true;

  std::map<std::string, at::Tensor> parameters;
  at::Tensor embeddings, aux, last_hidden;  // [B,S,h], [B,S,K·h], [B,S,h]
  at::Tensor head, teacher_head;            // [Vd,h]
  at::Tensor row_weights;                   // [B,S]: 1 where the row's prediction is trained on
  at::Tensor token_mask;                    // [B,S] bool or undefined: tokens that may be seen
  at::Tensor positions;                     // [1 or B,S]

  struct Step {
    at::Tensor loss, accuracy, overlap, count;
  };
  struct Result {
    at::Tensor total;
    std::vector<Step> steps;
  };

  Result run() const {
    const auto e = embeddings.roll(-1, 1);
    auto g = at::linear(aux, parameters.at("fc.weight"));
    std::vector<at::Tensor> keys(static_cast<size_t>(layers)), values(keys.size());
    Result result{at::zeros({}, at::kDouble), {}};
    for (int64_t k = 0; k < steps; ++k) {
      for (int64_t i = 0; i < layers; ++i) {
        const auto cache = static_cast<size_t>(i);
        g = layer(i, g, e, k, keys[cache], values[cache]);
      }
      result.steps.push_back(step_results(g, k));
      result.total = result.total + std::pow(decay, static_cast<double>(k)) * result.steps[k].loss;
      g = g.roll(1, 1);
    }
    return result;
  }

 private:
  const at::Tensor& weight(const std::string& name) const {
    return parameters.at(name + ".weight");
  }

  at::Tensor linear(const at::Tensor& x, const std::string& name) const {
    const auto bias = parameters.find(name + ".bias");
    return bias == parameters.end() ? at::linear(x, weight(name))
                                    : at::linear(x, weight(name), bias->second);
  }

  at::Tensor norm(const at::Tensor& x, const std::string& name) const {
    return weight(name) * x / (x.square().mean(-1, true) + eps).sqrt();
  }

  at::Tensor rotated(const at::Tensor& x) const {
    auto frequencies = at::empty({head_dim / 2}, at::kDouble);
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
      frequencies[i] = static_cast<double>(static_cast<float>(std::pow(rope_theta, exponent)));
    }
    const auto half = positions.to(at::kDouble).unsqueeze(-1) * frequencies;
    const auto angles = at::cat({half, half}, -1).unsqueeze(1);
    const auto parts = x.chunk(2, -1);
    return x * angles.cos() + at::cat({-parts[1], parts[0]}, -1) * angles.sin();
  }

  at::Tensor split(const at::Tensor& x) const {
    return x.view({x.size(0), x.size(1), -1, head_dim}).transpose(1, 2);
  }

  // Block 0 with a lag of k, one key of each later block.
  static at::Tensor step_mask(int64_t length, int64_t k) {
    auto mask = at::zeros({length, length * (k + 1)}, at::kBool);
    for (int64_t q = 0; q < length; ++q) {
      for (int64_t j = 0; j <= q - k; ++j) mask[q][j] = true;
      for (int64_t i = 1; i <= k; ++i) {
        if (q - (k - i) >= 0) mask[q][i * length + q - (k - i)] = true;
      }
    }
    return mask;
  }

  // A key belongs to the token after its position.
  at::Tensor allowed(int64_t length, int64_t k) const {
    const auto mask = step_mask(length, k).unsqueeze(0).unsqueeze(0);
    if (!token_mask.defined() || (k > 0 && !masks_padding_keys)) return mask;
    const auto keys = token_mask.roll(-1, 1).repeat({1, k + 1});
    return at::logical_and(mask, keys.unsqueeze(1).unsqueeze(1));
  }

  at::Tensor layer(int64_t index, const at::Tensor& g, const at::Tensor& e, int64_t k,
                   at::Tensor& keys, at::Tensor& values) const {
    const auto name = "layers." + std::to_string(index) + ".";
    auto x = norm(g, name + "input_layernorm");
    if (index == 0) {
      const auto inner = norms_hidden_twice ? x : g;
      x = at::cat({norm(e, name + "input_layernorm"), norm(inner, name + "hidden_norm")}, -1);
    }
    const auto attention = name + "self_attn.";
    const auto query = rotated(split(linear(x, attention + "q_proj")));
    const auto key = rotated(split(linear(x, attention + "k_proj")));
    const auto value = split(linear(x, attention + "v_proj"));
    keys = keys.defined() ? at::cat({keys, key}, 2) : key;
    values = values.defined() ? at::cat({values, value}, 2) : value;
    const int64_t group = heads / kv_heads;
    const auto mask = allowed(g.size(1), k);
    const auto scores = at::matmul(query, keys.repeat_interleave(group, 1).transpose(2, 3)) /
                        std::sqrt(static_cast<double>(head_dim));
    const auto weights = at::softmax(scores.masked_fill(mask.logical_not(), -1e30), -1) * mask;
    const auto attended = at::matmul(weights, values.repeat_interleave(group, 1));
    const auto residual = g + linear(attended.transpose(1, 2).flatten(2), attention + "o_proj");
    const auto normed = norm(residual, name + "post_attention_layernorm");
    const auto gate = linear(normed, name + "mlp.gate_proj");
    return residual + linear(gate * at::sigmoid(gate) * linear(normed, name + "mlp.up_proj"),
                             name + "mlp.down_proj");
  }

  Step step_results(const at::Tensor& g, int64_t k) const {
    const auto post = parameters.contains("norm.weight") ? norm(g, "norm") : g;
    const auto logits = at::linear(post, head);
    const auto teacher = at::linear(last_hidden.roll(-1, 1), teacher_head).detach();
    const auto p = at::softmax(teacher, -1), log_q = at::log_softmax(logits, -1);
    auto rows = row_weights.clone();
    rows.slice(1, 0, k).zero_();
    rows.select(1, -1).zero_();
    const auto count = rows.sum();
    const auto mean = [&](const at::Tensor& x) {
      return (x.to(at::kDouble) * rows).sum() / count.clamp_min(1.0);
    };
    const auto overlap = at::minimum(p, log_q.exp()).sum(-1);
    return {-((p * log_q).sum(-1) * rows).sum() / (count + 1e-5),
            mean(logits.argmax(-1).eq(teacher.argmax(-1))), mean(overlap), count};
  }
};

}  // namespace outrider::testing
