//! DNS messages: a question that was read can be answered, and the answer is one.
#![no_main]
use libfuzzer_sys::fuzz_target;
use wharf_net::dns::message::{Code, Data, Question, Transport};

fuzz_target!(|message: &[u8]| {
    let Ok(question) = Question::read(message) else { return };
    let data = [Data::Address([10, 0, 0, 1].into()), Data::Pointer("web.front".into())];
    for via in [Transport::Udp, Transport::Tcp] {
        let answer = question.answer(Code::NoError, &data, via);
        assert!(question.is_answered_by(&answer));
        assert!(via == Transport::Tcp || answer.len() <= 4096);
    }
    _ = question.reverse();
});
