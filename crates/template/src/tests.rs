use super::*;
use serde_json::json;

fn data() -> Value {
    json!({
        "Name": "web", "Pid": 42, "Ratio": 0.5, "On": true, "Off": false, "Nil": null,
        "List": ["a", "b", "c"], "Empty": [],
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Labels": {"com.x": "1", "b": "2"}, "Env": ["A=1", "B=2"]},
        "Nets": {"z": {"IP": "10.0.0.1"}, "a": {"IP": "10.0.0.2"}},
    })
}

fn check(template: &str, want: &str) {
    let got = Template::parse(template).unwrap().execute(&data());
    assert_eq!(got.as_deref(), Ok(want), "{template}");
}

fn strict() -> Env<'static> {
    Env { missing: Missing::Error, open_maps: &["Labels", "Nets"], ..Env::default() }
}

#[test]
fn actions_print_values() {
    check("{{.Name}} {{.Pid}} {{.Ratio}} {{.On}}", "web 42 0.5 true");
    check("{{.State.Status}}-{{.State.ExitCode}}", "running-0");
    check("{{.List}} {{.State}}", "[a b c] map[ExitCode:0 Status:running]");
    check("{{.Nope}} {{.Nil}}", "<no value> <no value>");
    check("{{/* nothing */}}x{{- /* trims */ -}} y", "xy");
    check("{{\"q\"}}{{`raw`}}{{'a'}}{{0x10}}{{1.5}}", "qraw97161.5");
    check("a {{- \" b \" -}} c", "a b c");
    check("{{ $ }}", &Template::parse("{{.}}").unwrap().execute(&data()).unwrap());
}

#[test]
fn control_flow_works() {
    check("{{if .On}}y{{else}}n{{end}}{{if .Off}}y{{else if .Empty}}z{{else}}n{{end}}", "yn");
    check("{{with .State}}{{.Status}}{{end}}{{with .Nope}}x{{else}}none{{end}}", "runningnone");
    check("{{range .List}}[{{.}}]{{end}}{{range .Empty}}x{{else}}none{{end}}", "[a][b][c]none");
    check("{{range $i, $x := .List}}{{$i}}{{$x}}{{end}}", "0a1b2c");
    check("{{range $k, $v := .Nets}}{{$k}}={{$v.IP}} {{end}}", "a=10.0.0.2 z=10.0.0.1 ");
    check("{{range .List}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a");
    check("{{range .List}}{{if eq . \"b\"}}{{continue}}{{end}}{{.}}{{end}}", "ac");
    check("{{range 3}}{{.}}{{end}}", "012");
    check("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2");
    check("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21");
    check("{{define \"t\"}}<{{.}}>{{end}}{{template \"t\" .Name}}", "<web>");
    check("{{block \"b\" .Pid}}({{.}}){{end}}", "(42)");
    check("{{range .List}}{{$.Name}}{{end}}", "webwebweb");
}

#[test]
fn functions_compute() {
    check("{{len .List}} {{index .List 1}} {{index .Config.Labels \"com.x\"}}", "3 b 1");
    check("{{index .Nets \"a\" \"IP\"}}", "10.0.0.2");
    check("[{{index .Config.Labels \"nope\"}}]", "[]");
    check("{{slice .Name 1}} {{slice .List 0 2}}", "eb [a b]");
    check("{{and .On .Name}} {{or .Off \"x\"}} {{not .On}}", "web x false");
    check(
        "{{eq .Pid 42}} {{ne .Name \"x\"}} {{lt 1 2}} {{ge 2 3}} {{eq .Name \"a\" \"web\"}}",
        "true true true false true",
    );
    check("{{print 1 2 \"a\" 3}}|{{println \"x\" 1}}", "1 2a3|x 1\n");
    check(
        "{{html \"<a&b>\"}} {{js \"it's\"}} {{urlquery \"a b&\"}}",
        "&lt;a&amp;b&gt; it\\'s a+b%26",
    );
    check("{{.Name | upper | printf \"%s!\"}}", "WEB!");
    check(
        "{{join .List \",\"}} {{split \"a:b\" \":\"}} {{title \"hello world\"}}",
        "a,b,c [a b] Hello World",
    );
    check("[{{pad .Name 1 2}}] {{truncate .Name 2}} {{lower \"AB\"}}", "[ web  ] we ab");
    check(
        "{{json .State}} {{json .Name}} {{json .Nope}}",
        "{\"Status\":\"running\",\"ExitCode\":0} \"web\" null",
    );
    check("{{(index .List 0) | upper}} {{(.State).Status}}", "A running");
}

#[test]
fn printf_follows_go() {
    check(
        "{{printf \"%5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c\" 42 42 42 42 42 42 42 42 65}}",
        "   42|42   |00042|+42|2a|2A|52|101010|A",
    );
    check(
        "{{printf \"%s|%q|%10s|%-4s|%.2s|%x\" \"abc\" \"a\\\"b\" \"abc\" \"ab\" \"abc\" \"hi\"}}",
        "abc|\"a\\\"b\"|       abc|ab  |ab|6869",
    );
    check(
        "{{printf \"%v %t %T %.2f %6.1f %e\" .List true 1 1.005 2.25 1500.0}}",
        "[a b c] true int 1.00    2.2 1.500000e+03",
    );
    check(
        "{{printf \"%d\" \"x\"}} {{printf \"%d\"}} {{printf \"x\" 1}} {{printf \"100%%\"}}",
        "%!d(string=x) %!d(MISSING) x%!(EXTRA int=1) 100%",
    );
    check("{{printf \"%*d\" 4 7}}", "   7");
}

#[test]
fn missing_keys_follow_the_rules() {
    let run = |text: &str| Template::parse(text).unwrap().execute_in(&data(), &strict());
    assert_eq!(run("{{.Config.Labels.nope}}").unwrap(), "<no value>");
    assert_eq!(
        run("{{.State.Foo}}").unwrap_err().to_string(),
        "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\""
    );
    assert_eq!(
        run("a\n{{.Foo}}").unwrap_err().to_string(),
        "template: :2:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\""
    );
    let env = Env { missing: Missing::Field("*formatter.ContainerContext"), ..Env::default() };
    assert_eq!(
        Template::parse("{{.Foo}}").unwrap().execute_in(&data(), &env).unwrap_err().to_string(),
        "template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext"
    );
}

#[test]
fn methods_of_the_root_take_arguments() {
    let label = |name: &str, args: &[Value]| {
        (name == "Label").then(|| Ok(format!("L:{}", args[0].as_str().unwrap_or("")).into()))
    };
    let env = Env { method: Some(&label), ..strict() };
    let run = |text: &str| Template::parse(text).unwrap().execute_in(&data(), &env);
    assert_eq!(run("{{.Label \"x\"}} {{\"y\" | .Label}}").unwrap(), "L:x L:y");
    assert!(run("{{.Name 1}}").unwrap_err().to_string().contains("has arguments"));
}

#[test]
fn execution_errors_name_the_place() {
    let fails = |text: &str, want: &str| {
        let error = Template::parse(text).unwrap().execute(&data()).unwrap_err();
        assert_eq!(error.to_string(), want, "{text}");
    };
    fails(
        "{{.Name.X}}",
        "template: :1:7: executing \"\" at <.Name.X>: can't evaluate field X in type string",
    );
    fails(
        "{{index .List 9}}",
        "template: :1:2: executing \"\" at <index .List 9>: error calling index: index out of range: 9",
    );
    fails(
        "{{len 3}}",
        "template: :1:2: executing \"\" at <len 3>: error calling len: len of type int",
    );
    fails(
        "{{eq 1 \"a\"}}",
        "template: :1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
    );
    fails("{{upper 1}}", "template: :1:8: executing \"\" at <1>: expected string; found 1");
    fails(
        "{{template \"x\"}}",
        "template: :1:11: executing \"\" at <{{template \"x\"}}>: template \"x\" not defined",
    );
}

#[test]
fn parse_errors_have_gos_words() {
    let fails = |text: &str, want: &str| {
        assert_eq!(Template::parse(text).unwrap_err().to_string(), want, "{text}");
    };
    fails("{{.Foo", "template: :1: unclosed action");
    fails("{{foo}}", "template: :1: function \"foo\" not defined");
    fails("{{if .X}}", "template: :1: unexpected EOF");
    fails("{{end}}", "template: :1: unexpected {{end}}");
    fails("{{}}", "template: :1: missing value for command");
    fails("{{$x}}", "template: :1: undefined variable \"$x\"");
    fails("{{\"a}}", "template: :1: unterminated quoted string");
    fails("{{@}}", "template: :1: unexpected \"@\" in command");
    fails("{{break}}", "template: :1: {{break}} outside {{range}}");
    fails("{{.A}", "template: :1: bad character U+007D '}'");
    // Found by the fuzzer: ASCII's white space is not Go's.
    fails("{{\x0c}}", "template: :1: unrecognized character in action: U+000C");
    fails("{{$.\x0c{{$", "template: :1: bad character U+000C");
}

#[test]
fn depth_is_limited() {
    let nested = format!("{}{}", "{{if true}}".repeat(500), "{{end}}".repeat(500));
    assert!(Template::parse(&nested).is_err());
    let parens = format!("{{{{{}1{}}}}}", "(".repeat(500), ")".repeat(500));
    assert!(Template::parse(&parens).is_err());
    let endless = "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}";
    assert!(Template::parse(endless).unwrap().execute(&data()).is_err());
}

#[test]
fn mentions_finds_whole_fields() {
    let template = Template::parse("{{.Size}} {{.Sizes}}").unwrap();
    assert!(template.mentions("Size"));
    assert!(!template.mentions("Siz"));
}

proptest::proptest! {
    #[test]
    fn nothing_panics(text in "(\\{\\{|\\}\\}|[ a-z.$\"'`|()0-9-]|if |range |end|else|with |\\.List|index |printf |json ){0,24}") {
        if let Ok(template) = Template::parse(&text) {
            drop(template.execute(&data()));
            drop(template.execute_in(&data(), &strict()));
        }
    }

    #[test]
    fn text_without_actions_is_kept(text in "[^{]*") {
        proptest::prop_assert_eq!(Template::parse(&text).unwrap().execute(&data()).unwrap(), text);
    }

    #[test]
    fn quoted_strings_come_back(text in "\\PC*") {
        let template = format!("{{{{{}}}}}", quote(&text));
        proptest::prop_assert_eq!(Template::parse(&template).unwrap().execute(&data()).unwrap(), text);
    }

    #[test]
    fn any_text_parses_or_fails_cleanly(text in "\\PC*") {
        drop(Template::parse(&text).map(|t| t.execute(&data())));
    }
}
