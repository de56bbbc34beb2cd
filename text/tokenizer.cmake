sluice_library(tokenizer
               SRCS added_tokens.cc bpe.cc byte_alphabet.cc detokenizer.cc normalizer.cc
                    pretokenizer.cc regex.cc regex_syntax.cc stop_matcher.cc tokenizer.cc
                    tokenizer_json.cc utf8.cc
               DEPS base absl::flat_hash_map absl::flat_hash_set absl::function_ref
                    nlohmann_json::nlohmann_json PkgConfig::PCRE2 PkgConfig::UTF8PROC)
