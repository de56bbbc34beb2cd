sluice_library(tokenizer
               SRCS added_tokens.cc bpe.cc byte_alphabet.cc characters.cc charsmap.cc decoder.cc
                    detokenizer.cc json_reader.cc normal_form.cc normalizer.cc pretokenizer.cc
                    regex.cc regex_syntax.cc self_test.cc sentencepiece.cc sentencepiece_file.cc
                    sentencepiece_normalizer.cc stop_matcher.cc tokenizer.cc tokenizer_json.cc
                    tokenizer_model.cc tokenizer_stages.cc unigram.cc utf8.cc
               DEPS base absl::flat_hash_map absl::flat_hash_set absl::function_ref
                    nlohmann_json::nlohmann_json PkgConfig::PCRE2 PkgConfig::UTF8PROC)
