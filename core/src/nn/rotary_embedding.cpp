#include "outrider/nn/rotary_embedding.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "outrider/error.h"
#include "outrider/ops/rotary.h"

namespace outrider::nn {
namespace {

double parameter(const RopeConfig& rope, const char* name, double fallback) {
  const auto found = rope.parameters.find(name);
  return found == rope.parameters.end() || found->is_null() ? fallback : found->get<double>();
}

// θ^(-2i/D) for i in [0, D/2).
std::vector<double> base_frequencies(double theta, int64_t head_dim) {
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
  }
  return frequencies;
}

// NTK by parts (Llama 3.1): long wavelengths are slowed by the factor, short ones kept, a ramp
// between.
double llama3_frequency(double frequency, const RopeConfig& rope) {
  const double factor = parameter(rope, "factor", 1.0);
  const double low = parameter(rope, "low_freq_factor", 1.0);
  const double high = parameter(rope, "high_freq_factor", 4.0);
  const double length = parameter(rope, "original_max_position_embeddings", 8192);
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength > length / low) return frequency / factor;
  if (wavelength < length / high) return frequency;
  const double smooth = (length / wavelength - low) / (high - low);
  return (1.0 - smooth) * frequency / factor + smooth * frequency;
}

// arXiv 2309.00071, section 3.4: the attention temperature for a context extended by `scale`.
double yarn_temperature(double scale, double mscale) {
  return scale <= 1.0 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0;
}

double yarn_factor(const RopeConfig& rope) {
  const double original = parameter(rope, "original_max_position_embeddings",
                                    static_cast<double>(rope.max_position_embeddings));
  const double implied = static_cast<double>(rope.max_position_embeddings) / original;
  return parameter(rope, "factor", implied);
}

double yarn_attention_factor(const RopeConfig& rope) {
  const double factor = yarn_factor(rope);
  const double mscale = parameter(rope, "mscale", 0.0);
  const double mscale_all_dim = parameter(rope, "mscale_all_dim", 0.0);
  const double implied =
      mscale != 0.0 && mscale_all_dim != 0.0
          ? yarn_temperature(factor, mscale) / yarn_temperature(factor, mscale_all_dim)
          : yarn_temperature(factor, 1.0);
  return parameter(rope, "attention_factor", implied);
}

// arXiv 2309.00071, section 3.2: dimensions between `low` and `high` move from kept to
// interpolated.
std::pair<double, double> yarn_ramp(const RopeConfig& rope, int64_t head_dim) {
  const double length = parameter(rope, "original_max_position_embeddings",
                                  static_cast<double>(rope.max_position_embeddings));
  const auto dimension_of = [&](double rotations) {
    return static_cast<double>(head_dim) * std::log(length / (rotations * 2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = dimension_of(parameter(rope, "beta_fast", 32.0));
  double high = dimension_of(parameter(rope, "beta_slow", 1.0));
  if (rope.parameters.value("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  return {low, low == high ? high + 0.001 : high};
}

std::vector<double> yarn_frequencies(const RopeConfig& rope, int64_t head_dim) {
  auto frequencies = base_frequencies(rope.theta, head_dim);
  const auto [low, high] = yarn_ramp(rope, head_dim);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / yarn_factor(rope) * ramp + frequencies[i] * (1.0 - ramp);
  }
  return frequencies;
}

// The base grows with the sequence once it is longer than the model was trained for.
std::vector<double> dynamic_frequencies(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  const double factor = parameter(rope, "factor", 1.0);
  const double trained = static_cast<double>(rope.max_position_embeddings);
  const double seen = std::max(static_cast<double>(length), trained);
  const double dim = static_cast<double>(head_dim);
  const double theta =
      rope.theta * std::pow(factor * seen / trained - (factor - 1.0), dim / (dim - 2.0));
  return base_frequencies(theta, head_dim);
}

// LongRoPE (arXiv 2402.13753): a factor for every frequency, one list for sequences of the original
// length and one for longer ones.
std::vector<double> longrope_frequencies(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  const bool is_long =
      static_cast<double>(length) > parameter(rope, "original_max_position_embeddings", 0.0);
  const auto factors = rope.parameters.at(is_long ? "long_factor" : "short_factor");
  auto frequencies = base_frequencies(rope.theta, head_dim);
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= factors.at(i).get<double>();
  return frequencies;
}

double longrope_attention_factor(const RopeConfig& rope) {
  const double original = parameter(rope, "original_max_position_embeddings", 0.0);
  const double factor =
      parameter(rope, "factor", static_cast<double>(rope.max_position_embeddings) / original);
  const double implied =
      factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(factor) / std::log(original));
  return parameter(rope, "attention_factor", implied);
}

void check_longrope_factors(const RopeConfig& rope, int64_t rotated) {
  for (const char* key : {"short_factor", "long_factor"}) {
    const auto count = static_cast<int64_t>(rope.parameters.at(key).size());
    if (count == rotated / 2) continue;
    throw Error(ErrorCode::kInvalidConfig,
                fmt::format("'{}' has {} numbers, expected {}: one for every two of the {} "
                            "dimensions that are rotated",
                            key, count, rotated / 2, rotated));
  }
}

bool varies_with_length(const RopeConfig& rope) {
  return rope.type == "dynamic" || rope.type == "longrope";
}

std::vector<double> frequencies_for(const RopeConfig& rope, int64_t head_dim, int64_t length) {
  if (rope.type == "longrope") return longrope_frequencies(rope, head_dim, length);
  if (rope.type == "dynamic") return dynamic_frequencies(rope, head_dim, length);
  if (rope.type == "yarn") return yarn_frequencies(rope, head_dim);
  auto frequencies = base_frequencies(rope.theta, head_dim);
  for (double& frequency : frequencies) {
    if (rope.type == "linear") frequency /= parameter(rope, "factor", 1.0);
    if (rope.type == "llama3") frequency = llama3_frequency(frequency, rope);
  }
  return frequencies;
}

int64_t rotated_dimensions(const RopeConfig& rope, int64_t head_dim) {
  const auto rotated =
      static_cast<int64_t>(static_cast<double>(head_dim) * rope.partial_rotary_factor);
  if (rotated < 2 || rotated % 2 != 0) {
    throw Error(
        ErrorCode::kInvalidConfig,
        fmt::format("'partial_rotary_factor' {} of 'head_dim' {} is {} dimensions to rotate: "
                    "an even number is needed",
                    rope.partial_rotary_factor, head_dim, rotated));
  }
  return rotated;
}

}  // namespace

RotaryEmbedding::RotaryEmbedding(RopeConfig config, int64_t head_dim)
    : config_(std::move(config)), rotated_(rotated_dimensions(config_, head_dim)) {
  if (config_.type == "yarn") attention_factor_ = yarn_attention_factor(config_);
  if (config_.type == "longrope") {
    check_longrope_factors(config_, rotated_);
    attention_factor_ = longrope_attention_factor(config_);
  }
  if (!depends_on_length()) inverse_frequencies_ = inverse_frequencies(0);
}

bool RotaryEmbedding::depends_on_length() const { return varies_with_length(config_); }

at::Tensor RotaryEmbedding::inverse_frequencies(int64_t sequence_length) const {
  const auto values = frequencies_for(config_, rotated_, sequence_length);
  return at::tensor(at::ArrayRef<double>(values), at::kDouble).to(at::kFloat);
}

const at::Tensor& RotaryEmbedding::frequencies_on(const at::Device& device) {
  if (inverse_frequencies_.device() != device) {
    inverse_frequencies_ = inverse_frequencies_.to(device);
  }
  return inverse_frequencies_;
}

CosSin RotaryEmbedding::tables(const at::Tensor& position_ids, at::ScalarType dtype,
                               int64_t length) {
  const auto known = [&] { return length > 0 ? length : position_ids.max().item<int64_t>() + 1; };
  const auto frequencies = inverse_frequencies_.defined()
                               ? frequencies_on(position_ids.device())
                               : inverse_frequencies(known()).to(position_ids.device());
  const auto type = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto angles = position_ids.to(type).unsqueeze(-1) * frequencies.to(type);
  const auto both = at::cat({angles, angles}, -1).unsqueeze(1);
  return {(both.cos() * attention_factor_).to(dtype), (both.sin() * attention_factor_).to(dtype)};
}

at::Tensor apply_rotary(const at::Tensor& x, const CosSin& tables) {
  return ops::rotary(x, tables.cos, tables.sin);
}

std::pair<at::Tensor, at::Tensor> rotated(const at::Tensor& query, const at::Tensor& key,
                                          const CosSin& tables) {
  const bool in_place = query.is_cuda() && !at::GradMode::is_enabled() &&
                        query.scalar_type() == tables.cos.scalar_type();
  if (!in_place) return {apply_rotary(query, tables), apply_rotary(key, tables)};
  ops::rotate_in_place(query, key, tables.cos, tables.sin);
  return {query, key};
}

}  // namespace outrider::nn
