use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    load: LoadArgs,
}

fn parse(args: &str) -> Result<LoadArgs, String> {
    let args = std::iter::once("load").chain(args.split_whitespace());
    Cli::try_parse_from(args)
        .map(|cli| cli.load)
        .map_err(|error| error.to_string())
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory as _;
    Cli::command().debug_assert();
}

#[test]
fn arguments_become_options() {
    let options = parse("").unwrap().options();
    assert_eq!(options.amount, Amount::Time(Duration::from_secs(5)));
    assert_eq!(
        (options.connections.get(), options.concurrency.get()),
        (4, 64)
    );
    assert_eq!(options.rate, None);

    let args = "--requests 1000 --connections 1 --concurrency 100 --rate 2.5 --warmup 500ms \
                --descriptor a={key},b=c --descriptor d=e --keys 10 --distribution zipf:1.1";
    let options = parse(args).unwrap().options();
    assert_eq!(
        options.amount,
        Amount::Requests(NonZeroU64::new(1_000).unwrap())
    );
    assert_eq!(
        (options.connections.get(), options.concurrency.get()),
        (1, 100)
    );
    assert_eq!(options.rate, Some(2.5));
    assert_eq!(options.warm_up, Duration::from_millis(500));
    assert_eq!(options.distribution, Distribution::Zipf(1.1));
    let request = options.request.request(7);
    assert_eq!(request.descriptors.len(), 2);
    assert_eq!(&request.descriptors[0].entries[0].value[..], b"7");
}

#[test]
fn mistakes_are_refused() {
    for (args, told) in [
        ("--keys 0", "--keys"),
        ("--connections 0", "--connections"),
        ("--rate 0", "above 0"),
        ("--rate -3", "-3"),
        ("--rate fast", "above 0"),
        ("--duration 5", "a unit"),
        ("--duration 5x", "a unit"),
        ("--duration 1.2.3s", "not a number"),
        ("--duration 5s --requests 3", "cannot be used with"),
        ("--distribution gauss", "zipf:EXPONENT"),
        ("--descriptor =x", "without a key"),
        ("--fail-on often", "over_limit"),
    ] {
        let error = parse(args).expect_err(args);
        assert!(error.contains(told), "{args}: {error}");
    }
}

#[test]
fn durations_have_units() {
    for (text, milliseconds) in [
        ("500ms", 500),
        ("5s", 5_000),
        ("1.5s", 1_500),
        ("2m", 120_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(
            duration(text),
            Ok(Duration::from_millis(milliseconds)),
            "{text}"
        );
    }
}

#[test]
fn the_exit_code_tells_what_was_asked() {
    let report = |over_limit, errors, gave_up| {
        let mut report = Report {
            over_limit,
            gave_up,
            ..Report::default()
        };
        report.errors.total = errors;
        report
    };
    for (args, refused, failed, gave_up) in [
        ("", false, true, true),
        ("--fail-on over_limit", true, false, false),
        ("--fail-on over_limit,error", true, true, true),
        ("--expect-no-refusals", true, true, true),
        ("--fail-on never", false, false, false),
    ] {
        let args = parse(args).unwrap();
        assert!(!args.fails(&report(0, 0, false)));
        assert_eq!(args.fails(&report(1, 0, false)), refused, "{args:?}");
        assert_eq!(args.fails(&report(0, 1, false)), failed, "{args:?}");
        assert_eq!(args.fails(&report(0, 0, true)), gave_up, "{args:?}");
    }
}

#[test]
fn progress_shows_the_latest_rate() {
    let at = |seconds, ok| Progress {
        elapsed: Duration::from_secs(seconds),
        counts: load::Counts {
            ok,
            ..load::Counts::default()
        },
    };
    let mut line = ProgressLine::default();
    assert!(line.text(&at(2, 100)).contains(" 50 decisions/s"));
    line.before = Some(at(2, 100));
    assert!(line.text(&at(3, 1_100)).contains(" 1000 decisions/s"));
}
