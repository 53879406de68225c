#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "generate/text_helper.h"
#include "outrider/api.h"
#include "outrider/decode/decoder.h"
#include "outrider/json.h"

namespace outrider {

struct RegenerationOptions {
  decode::DecodeOptions decode;           // its seed decides, with number and turn, each answer's
  std::vector<double> temperatures{0.0};  // conversation i has that of i modulo their number
  size_t batch_size = 1;
  int64_t positions = 0;  // a question and its answer have no more
  /// Called when answers grow, with how many tokens this run has written; may throw to end it.
  std::function<void(int64_t tokens)> on_tokens;
};

/// The key of what stands for a conversation without an answer, with the reason: "empty" (the
/// first answer is), or "too_long" (the first question is).
constexpr const char* kLeftOutKey = "left_out";

/// Has a model answer the questions of conversations, one turn after the other. An answer depends
/// on its conversation's number, whatever is decoded beside it.
class OUTRIDER_API Regeneration {
 public:
  Regeneration(decode::Decoder decoder, TextHelper& text, RegenerationOptions options)
      : decoder_(std::move(decoder)), text_(text), options_(std::move(options)) {}

  /// How many conversations are answered together: a batch of each temperature.
  size_t group_size() const { return options_.batch_size * options_.temperatures.size(); }
  /// Conversations `begin` to `end`, numbers of `all`, as what `data prepare` reads: {"messages":
  /// […], "finished": …, and what is beside them}, or {kLeftOutKey: …}. One ends before a question
  /// that is too long or whose answer is empty, and behind an answer without a stop token, which is
  /// what `finished` false says.
  std::vector<Json> answered(const std::vector<Questions>& all, size_t begin, size_t end);

  /// Of all conversations so far: tokens, passes of the base behind the prompts', seconds.
  int64_t tokens() const { return tokens_; }
  int64_t rounds() const { return rounds_; }
  int64_t answers() const { return answers_; }
  double seconds() const { return seconds_; }

 private:
  struct Chat;

  void answer_batch(std::vector<Chat>& chats, double temperature);
  void ask(std::vector<Chat*>& open) const;
  void decode(const std::vector<Chat*>& open, double temperature);
  void take(Chat& chat, const decode::DecodedSequence& answer);

  decode::Decoder decoder_;
  TextHelper& text_;
  RegenerationOptions options_;
  int64_t tokens_ = 0, rounds_ = 0, answers_ = 0;
  double seconds_ = 0.0;
};

}  // namespace outrider
