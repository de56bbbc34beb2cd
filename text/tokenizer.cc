#include "text/tokenizer.h"

#include <absl/container/flat_hash_map.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "base/text.h"
#include "text/sentencepiece.h"
#include "text/tokenizer_json.h"
#include "text/utf8.h"

namespace sluice {
namespace {

constexpr uintmax_t kMaxFileBytes = 256 << 20;

absl::StatusOr<std::string> read_file(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    return not_found("{}: no such file", path.string());
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return not_found("{}: {}", path.string(), error.message());
  if (size > kMaxFileBytes)
    return invalid_argument("{}: {} bytes, the limit is {}", path.string(), size, kMaxFileBytes);
  std::string text(size, '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(size)))
    return invalid_argument("{}: cannot be read", path.string());
  return text;
}

class FileTokenizer final : public Tokenizer {
 public:
  // Fails when two added tokens look the same in text.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> make(TokenizerParts parts) {
    std::unique_ptr<FileTokenizer> out(new FileTokenizer(std::move(parts)));
    std::string buffer;
    for (const AddedToken& token : out->parts_.added) {
      std::string_view pattern = token.content;
      if (token.normalized) pattern = out->parts_.normalizer.apply(pattern, buffer);
      if (!(token.normalized ? out->normalized_ : out->raw_).add(pattern, token))
        return invalid_argument("added_tokens: '{}' looks like another token", token.content);
    }
    for (const AddedToken& symbol : out->parts_.symbols)
      out->normalized_.add(symbol.content, symbol);
    return out;
  }

  std::vector<TokenId> encode(std::string_view text, bool add_special) const override {
    std::string valid;
    if (utf8_valid_prefix(text) != text.size()) {
      append_valid_utf8(valid, text);
      text = valid;
    }
    std::vector<TokenId> out;
    out.reserve(text.size() / 3 + 8);
    if (add_special) out.insert(out.end(), parts_.prefix.begin(), parts_.prefix.end());
    encode_valid(text, out);
    if (add_special) out.insert(out.end(), parts_.suffix.begin(), parts_.suffix.end());
    return out;
  }

  std::string_view piece(TokenId id) const override {
    return known(id) ? std::string_view(pieces_[id]) : std::string_view();
  }
  std::string_view content(TokenId id) const override {
    return known(id) ? std::string_view(contents_[id]) : std::string_view();
  }
  bool is_special(TokenId id) const override { return known(id) && special_[id]; }
  bool is_byte(TokenId id) const override { return known(id) && byte_[id]; }
  bool lossless() const override {
    return parts_.normalizer.keeps_text() && parts_.pretokenizer.keeps_text() &&
           std::visit([](const auto& model) { return model.covers_all_bytes(); }, parts_.model);
  }
  std::string_view kind() const override {
    if (std::holds_alternative<Unigram>(parts_.model)) return "Unigram";
    return parts_.byte_level ? "BPE of bytes" : "BPE of characters";
  }
  std::string_view file() const override { return parts_.file; }
  const Decoder& decoder() const override { return parts_.decoder; }
  std::optional<TokenId> find(std::string_view content) const override {
    const auto added = added_ids_.find(content);
    return added != added_ids_.end() ? added->second : find_token(parts_.model, content);
  }
  int vocab_size() const override { return static_cast<int>(pieces_.size()); }

 private:
  explicit FileTokenizer(TokenizerParts parts) : parts_(std::move(parts)) {
    for_each_entry(parts_.model, [&](const std::string& content, TokenId id) {
      set(id, content, false);
      pieces_[id] = parts_.decoder.spell(content, false, false);
    });
    for (const AddedToken& token : parts_.added) {
      set(token.id, token.content, token.special);
      // In a byte-level vocabulary they are not written in the byte alphabet, also where their
      // content happens to be letters of it.
      pieces_[token.id] = parts_.decoder.byte_level()
                              ? token.content
                              : parts_.decoder.spell(token.content, false, false);
      added_ids_.emplace(token.content, token.id);
    }
    // An entry that is written like a special token is special, too.
    for (size_t id = 0; id < contents_.size(); ++id)
      if (const auto same = added_ids_.find(contents_[id]); same != added_ids_.end())
        special_[id] = special_[same->second];
    for (size_t id = 0; id < contents_.size(); ++id)
      if (const auto byte = parts_.decoder.byte_of(contents_[id])) {
        byte_[id] = true;
        pieces_[id] = std::string(1, *byte);
      }
  }

  void set(TokenId id, const std::string& content, bool special) {
    if (!known(id)) {
      pieces_.resize(id + 1);
      contents_.resize(id + 1);
      special_.resize(id + 1);
      byte_.resize(id + 1);
    }
    contents_[id] = content;
    special_[id] = special;
  }

  bool known(TokenId id) const { return id >= 0 && static_cast<size_t>(id) < pieces_.size(); }

  void encode_valid(std::string_view text, std::vector<TokenId>& out) const {
    std::visit([&](const auto& model) { encode_with(model, text, out); }, parts_.model);
  }

  template <class Model>
  void encode_with(const Model& model, std::string_view text, std::vector<TokenId>& out) const {
    Regex::Scratch regex;
    typename Model::Scratch scratch;
    std::string normal;
    bool first = false;  // the part begins where the text does
    const auto word = [&](std::string_view piece) { model.encode(piece, scratch, out); };
    const auto words = [&](std::string_view part) {
      parts_.pretokenizer.run(part, std::exchange(first, false), regex, word);
    };
    const auto token = [&](TokenId id) {
      out.push_back(id);
      first = false;
    };
    const auto raw = [&](std::string_view part) {
      first = part.data() == text.data();
      normalized_.split(parts_.normalizer.apply(part, normal, &first), regex, words, token);
    };
    raw_.split(text, regex, raw, token);
  }

  TokenizerParts parts_;
  AddedTokenMatcher raw_, normalized_;  // looked for before and after normalisation
  absl::flat_hash_map<std::string_view, TokenId, BytesHash> added_ids_;  // by content
  std::vector<std::string> pieces_, contents_;                           // [id]
  std::vector<bool> special_, byte_;                                     // [id]
};

// Of a file that need not be there.
absl::StatusOr<NamedText> read_beside(const std::filesystem::path& path) {
  NamedText file{path.string(), {}};
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return file;
  absl::StatusOr<std::string> text = read_file(path);
  if (!text.ok()) return text.status();
  file.text = *std::move(text);
  return file;
}

absl::StatusOr<TokenizerParts> read_json_parts(const std::filesystem::path& file,
                                               const NamedText& config) {
  absl::StatusOr<std::string> text = read_file(file);
  if (!text.ok()) return text.status();
  return parse_tokenizer(*text, file.string(), config.text, config.name);
}

absl::StatusOr<TokenizerParts> read_sentencepiece_parts(const std::filesystem::path& file,
                                                        NamedText config) {
  SentencePieceTexts texts;
  texts.config = std::move(config);
  texts.model.name = file.string();
  absl::StatusOr<std::string> model = read_file(file);
  if (!model.ok()) return model.status();
  texts.model.text = *std::move(model);
  for (const auto& [name, text] : {std::pair("special_tokens_map.json", &texts.special_tokens),
                                   std::pair("added_tokens.json", &texts.added_tokens)}) {
    absl::StatusOr<NamedText> beside = read_beside(file.parent_path() / name);
    if (!beside.ok()) return beside.status();
    *text = *std::move(beside);
  }
  return parse_sentencepiece(texts);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> load_file(const std::filesystem::path& model_dir) {
  const std::filesystem::path json = model_dir / "tokenizer.json";
  const std::filesystem::path model = model_dir / "tokenizer.model";
  std::error_code error;
  const bool by_model = !std::filesystem::exists(json, error);
  if (by_model && !std::filesystem::exists(model, error))
    return not_found("{}: no such file, and no tokenizer.model", json.string());
  absl::StatusOr<NamedText> config = read_beside(model_dir / "tokenizer_config.json");
  if (!config.ok()) return config.status();
  absl::StatusOr<TokenizerParts> parts = by_model
                                             ? read_sentencepiece_parts(model, *std::move(config))
                                             : read_json_parts(json, *config);
  if (!parts.ok()) return parts.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FileTokenizer::make(*std::move(parts));
  if (!tokenizer.ok()) return annotate(tokenizer.status(), (by_model ? model : json).string());
  return tokenizer;
}

}  // namespace

const Decoder& Tokenizer::decoder() const {
  static const Decoder bytes = [] {
    Decoder decoder;
    decoder.set_byte_level();
    return decoder;
  }();
  return bytes;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::filesystem::path& model_dir) {
  auto tokenizer = load_file(model_dir);
  if (!tokenizer.ok()) return one_line(tokenizer.status());  // it may quote the file
  return tokenizer;
}

}  // namespace sluice
