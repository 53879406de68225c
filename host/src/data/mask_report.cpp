#include "outrider/host/mask_report.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>

namespace outrider {
namespace {

/// A shape's value and how many conversations have it.
template <typename Value>
class Distribution {
 public:
  Distribution(const std::vector<ConversationShape>& shapes,
               const std::function<Value(const ConversationShape&)>& value) {
    for (const auto& shape : shapes) counts_[value(shape)] += shape.count;
    for (const auto& [_, count] : counts_) total_ += count;
  }

  Value minimum() const { return counts_.begin()->first; }
  Value maximum() const { return counts_.rbegin()->first; }

  /// The smallest value that at least the share `q` of the conversations do not exceed.
  Value quantile(double q) const {
    const auto rank =
        std::max<int64_t>(1, static_cast<int64_t>(std::ceil(q * static_cast<double>(total_))));
    int64_t seen = 0;
    for (const auto& [value, count] : counts_) {
      seen += count;
      if (seen >= rank) return value;
    }
    return maximum();
  }

 private:
  std::map<Value, int64_t> counts_;
  int64_t total_ = 0;
};

Json histogram(const std::vector<ConversationShape>& shapes) {
  std::map<int, int64_t> buckets;  // by the number of bits
  for (const auto& shape : shapes) {
    buckets[std::bit_width(static_cast<uint64_t>(shape.length))] += shape.count;
  }
  Json json = Json::array();
  for (int bits = buckets.begin()->first; bits <= buckets.rbegin()->first; ++bits) {
    const auto from = bits == 0 ? int64_t{0} : int64_t{1} << (bits - 1);
    json.push_back(
        {{"from", from}, {"to", bits == 0 ? 0 : 2 * from - 1}, {"count", buckets[bits]}});
  }
  return json;
}

double share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

std::vector<ConversationShape> conversation_shapes(const TokenShards& shards) {
  std::vector<ConversationShape> shapes;
  for (int64_t i = 0; i < shards.size(); ++i) {
    const auto mask = shards.conversation(i).loss_mask;
    shapes.push_back({static_cast<int64_t>(mask.size()),
                      static_cast<int64_t>(std::ranges::count(mask, uint8_t{1}))});
  }
  return shapes;
}

Json mask_report(const std::vector<ConversationShape>& shapes) {
  int64_t conversations = 0, tokens = 0, trained = 0, without = 0, whole = 0;
  for (const auto& shape : shapes) {
    conversations += shape.count;
    tokens += shape.count * shape.length;
    trained += shape.count * shape.trained;
    if (shape.trained == 0) without += shape.count;
    if (shape.trained == shape.length && shape.length > 0) whole += shape.count;
  }
  const Distribution<int64_t> lengths(shapes, [](const auto& shape) { return shape.length; });
  const Distribution<double> shares(
      shapes, [](const auto& shape) { return share(shape.trained, shape.length); });
  return {{"conversations", conversations},
          {"tokens", tokens},
          {"trained_tokens", trained},
          {"without_trained_token", without},
          {"with_every_token_trained", whole},
          {"length",
           {{"min", lengths.minimum()},
            {"median", lengths.quantile(0.5)},
            {"mean", share(tokens, conversations)},
            {"p90", lengths.quantile(0.9)},
            {"max", lengths.maximum()}}},
          {"trained_share",
           {{"all", share(trained, tokens)},
            {"min", shares.minimum()},
            {"median", shares.quantile(0.5)},
            {"max", shares.maximum()}}},
          {"histogram", histogram(shapes)}};
}

}  // namespace outrider
