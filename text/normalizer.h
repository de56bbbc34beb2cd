#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };

// Unicode normal forms, one after the other. Immutable, thread-safe.
class Normalizer {
 public:
  void add(NormalForm form) { forms_.push_back(form); }

  // `text` is valid UTF-8. Returns it unchanged (the same view) when it is normal already by a
  // quick look, otherwise a view of `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  std::vector<NormalForm> forms_;
};

}  // namespace sluice
