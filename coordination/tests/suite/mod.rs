pub mod bootstrap;
pub mod faults;
pub mod registrations;
pub mod values;
pub mod watches;
