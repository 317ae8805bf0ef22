//! `kubeconfigs` of `orchestrator/src/kube/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orchestrator::fuzz_kubeconfigs(bytes));
