#include "generate/regeneration.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace outrider {
namespace {

// Of a character whose bytes are not all there: an answer was cut within it.
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// One step of SplitMix64 (Steele, Lea and Flood, 2014).
uint64_t scrambled(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

uint64_t seed_of(uint64_t seed, size_t conversation, size_t turn) {
  return scrambled(scrambled(scrambled(seed) + conversation) + turn);
}

bool is_empty_answer(const std::string& text) {
  return text.find_first_not_of(" \t\r\n") == std::string::npos;
}

}  // namespace

struct Regeneration::Chat {
  const Questions* questions;
  size_t number, turn = 0;
  Json messages = Json::array();
  std::vector<int64_t> tokens = {};  // of the question that is open
  bool finished = true, ended = false;
  std::string left_out = {};

  const Json& question() const { return questions->turns[turn]; }
  Json prompt() const {
    auto prompt = questions->beside;
    prompt["messages"] = messages;
    return prompt;
  }
  Json line() const {
    if (turn == 0) return {{kLeftOutKey, left_out}};
    auto line = prompt();
    line["finished"] = finished;
    return line;
  }
  void end_before_question(const char* reason) {
    messages.erase(messages.end() - static_cast<std::ptrdiff_t>(question().size()), messages.end());
    left_out = reason;
    ended = true;
  }
};

std::vector<Json> Regeneration::answered(const std::vector<Questions>& all, size_t begin,
                                         size_t end) {
  std::vector<Json> lines(end - begin);
  const auto kinds = options_.temperatures.size();
  for (size_t kind = 0; kind < kinds; ++kind) {
    std::vector<Chat> chats;
    for (size_t i = begin; i < end; ++i) {
      if (i % kinds == kind) chats.push_back({.questions = &all[i], .number = i});
    }
    answer_batch(chats, options_.temperatures[kind]);
    for (const auto& chat : chats) lines[chat.number - begin] = chat.line();
  }
  return lines;
}

void Regeneration::answer_batch(std::vector<Chat>& chats, double temperature) {
  for (;;) {
    std::vector<Chat*> open;
    for (auto& chat : chats) {
      if (!chat.ended) open.push_back(&chat);
    }
    if (open.empty()) return;
    ask(open);
    if (!open.empty()) decode(open, temperature);
  }
}

// Those whose question is too long leave.
void Regeneration::ask(std::vector<Chat*>& open) const {
  std::erase_if(open, [&](Chat* chat) {
    for (const auto& message : chat->question()) chat->messages.push_back(message);
    chat->tokens = text_.encode(chat->prompt());
    const auto length = static_cast<int64_t>(chat->tokens.size()) + options_.decode.max_new_tokens;
    if (length <= options_.positions) return false;
    chat->end_before_question("too_long");
    return true;
  });
}

void Regeneration::decode(const std::vector<Chat*>& open, double temperature) {
  auto options = options_.decode;
  options.sampling.temperature = temperature;
  std::vector<std::vector<int64_t>> prompts;
  for (const auto* chat : open) {
    prompts.push_back(chat->tokens);
    options.seeds.push_back(seed_of(options.seed, chat->number, chat->turn));
  }
  options.on_tokens = [&](size_t, const std::vector<int64_t>& tokens) {
    tokens_ += static_cast<int64_t>(tokens.size());
    if (options_.on_tokens) options_.on_tokens(tokens_);
  };
  const auto batch = decoder_.run(prompts, options);
  seconds_ += batch.prompt_seconds + batch.draft_seconds + batch.base_seconds;
  for (size_t i = 0; i < open.size(); ++i) take(*open[i], batch.sequences[i]);
}

void Regeneration::take(Chat& chat, const decode::DecodedSequence& answer) {
  rounds_ += answer.rounds;
  ++answers_;
  auto tokens = answer.tokens;
  if (answer.stopped) tokens.pop_back();  // the template's end of turn stands for it
  auto text = text_.text(tokens);
  if (!answer.stopped && text.ends_with(kReplacement)) {
    text.resize(text.size() - kReplacement.size());
  }
  if (is_empty_answer(text)) return chat.end_before_question("empty");
  chat.messages.push_back({{"role", "assistant"}, {"content", text}});
  chat.finished = answer.stopped;
  ++chat.turn;
  chat.ended = !answer.stopped || chat.turn == chat.questions->turns.size();
}

}  // namespace outrider
