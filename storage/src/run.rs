//! Stand-in until runs land.
use crate::error::Result;
use crate::row::StoredRow;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
#[derive(Debug)]
pub(crate) enum Run {}
#[derive(Debug)]
pub(crate) enum RunCursor {}
#[derive(Debug)]
pub(crate) enum FoundRow {}
pub(crate) enum Summary {}
impl Summary {
    pub(crate) fn first_key(&self) -> &[u8] {
        match *self {}
    }
    pub(crate) fn last_key(&self) -> &[u8] {
        match *self {}
    }
}
impl FoundRow {
    pub(crate) fn row(&self) -> Option<StoredRow<'_>> {
        match *self {}
    }
}
impl Run {
    pub(crate) fn path(&self) -> &Path {
        match *self {}
    }
    pub(crate) fn bytes_at<'a>(&'a self, _: u32, _: usize, _: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        match *self {}
    }
    pub(crate) fn summary(&self) -> &Summary {
        match *self {}
    }
    pub(crate) fn may_hold(&self, _: &[u8]) -> bool {
        match *self {}
    }
    pub(crate) fn find(&self, _: &[u8]) -> Result<Option<FoundRow>> {
        match *self {}
    }
    pub(crate) fn cursor(self: &Arc<Self>) -> RunCursor {
        match **self {}
    }
}
impl RunCursor {
    pub(crate) fn seek(&mut self, _: Bound<&[u8]>) -> Result<()> {
        match *self {}
    }
    pub(crate) fn seek_back(&mut self, _: Bound<&[u8]>) -> Result<()> {
        match *self {}
    }
    pub(crate) fn next(&mut self) -> Result<Option<StoredRow<'_>>> {
        match *self {}
    }
    pub(crate) fn prev(&mut self) -> Result<Option<StoredRow<'_>>> {
        match *self {}
    }
    pub(crate) fn current(&self) -> Option<StoredRow<'_>> {
        match *self {}
    }
}
