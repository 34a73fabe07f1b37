//! Windows of neighbouring runs: which merge is under way, what of it need not be rewritten, what one would cost.

use std::ops::Range;

use super::{FileState, RunState, Tuning};
use crate::row::KEY_BYTES_MAX;

/// A merge that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// The runs that still hold the keys that are not moved yet.
    pub(crate) inputs: Range<usize>,
    /// The run that holds what was moved, just before them. None yet if nothing was.
    pub(crate) output: Option<usize>,
}

/// The merges that are under way, oldest first: neighbours whose keys were moved on up to the same key.
///
/// That the run before them is their result is seen from its keys: all are below. (If it should be an older run that
/// happens to have only such keys, then to go on in it is just as good: it stays a sorted run, in the right place.)
pub(crate) fn unfinished<'r>(runs: &'r [RunState<'_>]) -> impl Iterator<Item = Unfinished> + 'r {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next + runs[next..].iter().position(|run| run.from.is_some())?;
        let from = runs[start].from;
        let length = runs[start..].iter().take_while(|run| run.from == from).count();
        next = start + length;
        Some(Unfinished { inputs: start..next, output: output_of(runs, start..next) })
    })
}

/// The run that takes what the inputs of an unfinished merge still hold.
fn output_of(runs: &[RunState<'_>], inputs: Range<usize>) -> Option<usize> {
    let cold = runs[inputs.clone()].iter().any(|run| run.cold);
    let (before, from) = (inputs.start.checked_sub(1)?, runs[inputs.start].from?);
    let run = &runs[before];
    let below = run.files.last().is_none_or(|file| file.last < from);
    // A cold result may have hot inputs left: its cold ones had fewer keys.
    (below && run.from.is_none() && (run.cold || !cold)).then_some(before)
}

/// What the next slice of a merge does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Planned {
    /// Nothing is left.
    Done,
    /// A file goes over as it is: the run's place within the window, and the file's within the run.
    Keep { run: usize, file: usize },
    /// Rows are merged from here on, as far as this key at most (it is not part of it).
    Rewrite { before: Option<Vec<u8>> },
}

/// What a merge may drop beside rows that have a newer one in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drops {
    /// Nothing: older runs may hold what tombstones and expired rows shadow.
    Nothing,
    /// There is no older run, so they may go; a file is not rewritten for a few.
    Many,
    /// The same, and every last one goes.
    All,
}

/// Plans the next slice of a merge of neighbouring runs into one, which is cold or not.
pub(crate) fn plan(runs: &[RunState<'_>], cold: bool, drops: Drops, tuning: &Tuning) -> Planned {
    // The files that have keys left to move, by their first such key.
    let mut left: Vec<(&[u8], usize, usize)> = Vec::new();
    for (place, run) in runs.iter().enumerate() {
        for (number, file) in run.files.iter().enumerate() {
            if run.from.is_none_or(|from| file.last >= from) {
                left.push((file.first.max(run.from.unwrap_or_default()), place, number));
            }
        }
    }
    left.sort_unstable();
    let keeps = |index: usize| {
        let (first, place, number) = left[index];
        let file = &runs[place].files[number];
        first == file.first
            && runs[place].cold == cold
            && stays(file, drops, tuning)
            && left[..index].iter().all(|(_, place, number)| runs[*place].files[*number].last < first)
            && left.get(index + 1).is_none_or(|(next, ..)| *next > file.last)
    };
    let Some((_, run, file)) = left.first().copied() else { return Planned::Done };
    if keeps(0) {
        return Planned::Keep { run, file };
    }
    let kept = (1..left.len()).find(|index| keeps(*index));
    Planned::Rewrite { before: kept.map(|index| left[index].0.to_vec()) }
}

/// Whether a file that nothing overlaps may stay as it is.
fn stays(file: &FileState<'_>, drops: Drops, tuning: &Tuning) -> bool {
    let clean = match drops {
        Drops::Nothing => true,
        Drops::Many => file.droppable_bytes() * 8 <= file.bytes,
        Drops::All => file.droppable_bytes() == 0,
    };
    // The slice behind it begins at its last key and a byte: so long a key there must be.
    let long = file.bytes >= tuning.kept_file_bytes_min || file.rows >= tuning.kept_file_rows_min;
    clean && long && file.last.len() < KEY_BYTES_MAX
}

/// How many bytes merging neighbouring runs reads and rewrites: all but those of files that stay as they are.
///
/// It looks at whole files, as if nothing had been moved yet; for a merge that is under way it counts what is left.
pub(crate) fn cost(runs: &[RunState<'_>], tuning: &Tuning) -> u64 {
    let mut files: Vec<(&[u8], &FileState<'_>)> = Vec::new();
    for run in runs {
        let left = run.files.iter().filter(|file| run.from.is_none_or(|from| file.last >= from));
        files.extend(left.map(|file| (file.first.max(run.from.unwrap_or_default()), file)));
    }
    files.sort_unstable_by_key(|(first, _)| *first);
    let (mut bytes, mut reached): (u64, Option<&[u8]>) = (0, None);
    for (index, (first, file)) in files.iter().enumerate() {
        let alone = reached.is_none_or(|reached| reached < *first)
            && files.get(index + 1).is_none_or(|(next, _)| *next > file.last);
        reached = reached.max(Some(file.last));
        if !(alone && stays(file, Drops::Nothing, tuning)) {
            bytes += file.bytes;
        }
    }
    bytes
}

/// The merge that costs the least for each run that it saves. One that is under way is a candidate as a whole, never
/// in part. Of equals the newest. None that begins takes runs from before and behind the `border`.
pub(crate) fn cheapest(
    runs: &[RunState<'_>],
    border: Option<usize>,
    tuning: &Tuning,
) -> Option<Range<usize>> {
    let mut best: Option<(u64, Range<usize>)> = None;
    let mut consider = |window: Range<usize>| {
        let saved = window.len().saturating_sub(1).max(1) as u64;
        let each = cost(&runs[window.clone()], tuning) / saved;
        if best.as_ref().is_none_or(|(least, _)| each <= *least) {
            best = Some((each, window));
        }
    };
    let under_way: Vec<Unfinished> = unfinished(runs).collect();
    under_way.iter().for_each(|window| consider(window.inputs.clone()));
    // An output takes more at its end, so it cannot be merged with others meanwhile.
    let taken = |place: usize| {
        under_way.iter().any(|window| window.inputs.contains(&place) || window.output == Some(place))
    };
    for start in 0..runs.len() {
        let free = (start..runs.len()).take_while(|place| !taken(*place)).count();
        let crosses =
            |window: &Range<usize>| border.is_some_and(|border| window.start < border && border < window.end);
        let windows = (2..=free).map(|length| start..start + length);
        windows.filter(|window| !crosses(window)).for_each(&mut consider);
    }
    best.map(|(_, window)| window)
}
