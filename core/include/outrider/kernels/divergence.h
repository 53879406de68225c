#pragma once

#include <optional>
#include <string_view>

namespace outrider {

/// What a student's distribution q is held to a teacher's p by, per row and in nats. Gradients,
/// with respect to the student's logits, go through q alone. Where p and q of a token are equal,
/// the last two have a kink; its subgradient is the mean of both sides', as autograd takes it for
/// |p - q|.
enum class Divergence {
  /// -Σ p log q; gradient q - p. As forward KL(p‖q), which is less by the entropy of p: covers all
  /// that the teacher does. Hinton et al., arXiv 1503.02531.
  kCrossEntropy,
  /// KL(q‖p) = Σ q log(q/p); gradient q (log(q/p) - KL): stays where the teacher is sure. Infinite
  /// where p is 0 and q is not. MiniLLM, arXiv 2306.08543.
  kReverseKl,
  /// ½ KL(p‖m) + ½ KL(q‖m), m = ½ (p + q); gradient ½ q (log(q/m) - KL(q‖m)): between both, never
  /// more than log 2. GKD, arXiv 2306.13649.
  kJensenShannon,
  /// ½ Σ |p - q| = 1 - Σ min(p, q), 1 less the rate at which speculative sampling accepts
  /// (Leviathan
  /// et al., arXiv 2211.17192, corollary 3.6); gradient q (B - [q < p]), B = Σ q [q < p].
  /// DistillSpec, arXiv 2310.08461.
  kTotalVariation,
  /// -log Σ min(p, q), of that rate the logarithm; gradient that of kTotalVariation over the rate,
  /// which does not vanish where nothing is accepted yet. LK losses, arXiv 2602.23881.
  kLogAcceptance,
};

struct DivergenceName {
  std::string_view name;  // as configs have it
  Divergence divergence;
};

inline constexpr DivergenceName kDivergenceNames[] = {
    {"cross_entropy", Divergence::kCrossEntropy}, {"reverse_kl", Divergence::kReverseKl},
    {"jsd", Divergence::kJensenShannon},          {"total_variation", Divergence::kTotalVariation},
    {"lk", Divergence::kLogAcceptance},
};

constexpr std::optional<Divergence> divergence_of(std::string_view name) {
  for (const auto& known : kDivergenceNames) {
    if (known.name == name) return known.divergence;
  }
  return std::nullopt;
}

}  // namespace outrider
